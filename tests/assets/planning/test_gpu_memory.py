"""The memory of a GPU that a plan announces, against what a run allocates on a test device."""

from pathlib import Path

import pytest

from prunescope.assets.execution.model_session import ModelSession
from prunescope.assets.runs.estimate import estimate_model
from prunescope.pipelines.core.progress import SILENT
from prunescope.pipelines.studies import load_study
from prunescope.warehouse.storage.partition_store import Store
from tests.assets.tiny_study import StudyFile, computed
from tests.cuda_device import cuda_devices
from tests.tiny_models import SHORT_TEXT, save_tiny

RECIPES = ["dense", "wanda-50", "noise-bfloat16"]


@pytest.mark.exhaustive  # tests/pipelines/planning counts the same on a CPU
@pytest.mark.parametrize(("layers", "vocabulary"), [(6, 300), (2, 4000)], ids=["deep", "wide"])
def test_a_plan_announces_the_peak_of_every_variant_within_a_tenth(
    tmp_path: Path, layers: int, vocabulary: int
) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": layers, "vocab_size": vocabulary}
    study = StudyFile(tmp_path / "study.yaml", save_tiny(tmp_path / "model", **sizes))
    study.write(
        device="cuda:0",
        recipes=RECIPES,
        prompts=[{"id": f"p{n}", "kind": "open", "text": "Why is the sky blue? " * 3} for n in range(8)],
        generation={"new_tokens": 12},
        texts=[{"id": "help", "source": "embedded", "context": 64, "max_tokens": 4096}],
        tasks=[],
        calibration={"source": SHORT_TEXT, "sequences": 8, "length": 64},
        measure={"scopes": ["local", "propagated", "isolated"], "lenses": ["normed"]},
    )
    root, session = str(tmp_path / "warehouse"), ModelSession()
    with cuda_devices(1 << 30) as devices:
        chosen = load_study(str(study.path))
        planned = estimate_model(chosen, Store(root), SILENT, "tiny-a", replace=False)
        computed(study, Path(root), "models", session=session)
        for recipe in RECIPES:
            devices.peak[0] = 0
            computed(study, Path(root), ("variants", "traces", "texts"), recipe, session=session)
            [peak] = [row["memory_bytes"] for row in planned.rows if row["recipe"] == recipe]
            assert 0.9 < peak / devices.peak[0] < 1.1, recipe
