"""Pruning inside a study: recipes share passes, orders and finished layers, and end in the same variants."""

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prunescope.assets.execution.model_session import ModelSession
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.assets.runs.start import run_study
from prunescope.assets.runs.study_run import ANSWERS_NAME
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.pruning import apply
from prunescope.pipelines.pruning.variant import verify_variant
from prunescope.pipelines.recipes import Recipe
from tests.assets.runs.test_interrupted import stop_once_there_is
from tests.assets.tiny_study import Heard, Running, StudyFile, computed, one_thread, partitions, rows, without_answers

# The first test that asks for `runs` waits for five studies.
pytestmark = pytest.mark.timeout(900)


# As little as a study can measure: these tests look at the pruning.
LITTLE = {
    "prompts": [{"id": "open", "kind": "open", "text": "Why?"}],
    "texts": [],
    "tasks": [],
    "generation": {"new_tokens": 1},
    "measure": {"scopes": ["propagated"], "lenses": ["normed"], "trajectories": ["teacher_forced"]},
}


def heard(study: StudyFile, warehouse: Path) -> Heard:
    listener = Heard()
    with pytest.MonkeyPatch.context() as patch, one_thread():
        without_answers(patch)
        run_study(StudyRequest(str(study.path)), warehouse, listener)
    return listener


def variant_of(warehouse: Path, recipe: str) -> dict[str, object]:
    return rows(warehouse)[f"variants/model=tiny-a/recipe={recipe}/part.parquet"].to_pylist()[0]


FAMILY = [
    {"name": "a", "method": "sparsegpt", "sparsity": 0.5, "predecessors": "dense"},
    {"name": "b", "method": "gptq", "bits": 4, "predecessors": "dense"},
    {"name": "c", "method": "sparsegpt", "sparsity": 0.5, "predecessors": "dense", "modules": ["nothing"]},
]


@dataclass(frozen=True)
class Runs:
    """Two warehouses filled in different orders, the recorded events, and the remains of the first run."""

    one: Path
    two: Path
    in_one_pass: dict[str, object]
    unfinished: list[Path]
    family: Heard
    alone: Heard
    longer: Heard
    shorter: Heard
    mended: Heard


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, cache: Path) -> Runs:
    """Run the studies; several tests read each run."""
    folder = tmp_path_factory.mktemp("together")
    one, two = folder / "one", folder / "two"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNESCOPE_CACHE", str(cache))
        patch.delenv("DAGSTER_HOME", raising=False)
        study = StudyFile(folder / "tiny.yaml", tiny_folder)
        study.write(recipes=["dense", *FAMILY, "mlp-drop-1-iterative"], **LITTLE)
        family = heard(study, one)
        in_one_pass, unfinished = variant_of(one, "a"), list((one / "_unfinished").rglob("*.safetensors"))
        study.write(recipes=["dense", FAMILY[0], "mlp-drop-2-iterative"])
        alone = heard(study, two)
        # A file is damaged; only a reader of it can notice.
        (file,) = (one / "_variants/tiny-a/a").iterdir()
        content = bytearray(file.read_bytes())
        content[-3] ^= 16
        file.write_bytes(content)
        study.write(generation={"new_tokens": 2})
        longer = heard(study, one)
        mended = heard(study, one)
        study.write(recipes=["dense", "mlp-drop-2-iterative", "mlp-drop-1-iterative"], **LITTLE)
        shorter = heard(study, two)
    return Runs(one, two, in_one_pass, unfinished, family, alone, longer, shorter, mended)


@pytest.mark.exhaustive  # test_layerwise.py proves it of a pass; the test below shows the pass that a study shares
def test_recipes_with_dense_predecessors_share_a_pass_and_fail_alone(runs: Runs) -> None:
    assert "prune a and 2 more" in runs.family.tasks or "prune a and 1 more" in runs.family.tasks
    ((name, message),) = runs.family.failures
    assert name == "tiny-a@c"
    assert "matches no matrix" in message
    assert "prune a" in runs.alone.tasks
    assert variant_of(runs.two, "a")["variant_hash"] == runs.in_one_pass["variant_hash"]
    assert not runs.unfinished


def test_seconds_of_variants_leave_out_work_that_they_share(study: StudyFile, tmp_path: Path) -> None:
    study.write(recipes=["dense", *FAMILY[:2]], **LITTLE)
    started = time.perf_counter()
    listener = heard(study, tmp_path / "warehouse")
    seconds = time.perf_counter() - started
    assert set(listener.own) == {"tiny-a", "tiny-a@dense", "tiny-a@a", "tiny-a@b", ANSWERS_NAME}
    assert min(listener.own.values()) >= 0
    assert sum(listener.own.values()) < seconds
    of_variants = {(f"tiny-a@{name}", step) for name in ("dense", "a", "b") for step in ("variants", "traces")}
    assert {("tiny-a", "models"), *of_variants, (ANSWERS_NAME, "answers")} <= {*listener.begun}


@pytest.mark.exhaustive  # the last test removes such a file; test_study_run.py reports a failure
def test_a_damaged_file_is_reported_once_and_the_next_run_replaces_it(runs: Runs) -> None:
    ((name, message),) = runs.longer.failures
    assert name == "tiny-a@a"
    assert "run its study again" in message
    assert not runs.mended.failures


@pytest.mark.exhaustive  # test_depth.py continues a known order
def test_a_longer_drop_continues_the_order_of_a_shorter_one(runs: Runs) -> None:
    assert runs.family.tasks["order of mlp-drop-1-iterative"] == 1
    assert runs.longer.tasks["order of mlp-drop-2-iterative"] == 1
    assert runs.alone.tasks["order of mlp-drop-2-iterative"] == 2
    assert variant_of(runs.one, "mlp-drop-2-iterative") == variant_of(runs.two, "mlp-drop-2-iterative")
    assert runs.shorter.tasks["order of mlp-drop-1-iterative"] == 0, "a longer one knows it"
    assert variant_of(runs.two, "mlp-drop-1-iterative") == variant_of(runs.one, "mlp-drop-1-iterative")


# test_layerwise.py resumes at a layer, test_interrupted.py kills runs.
@pytest.mark.exhaustive
def test_a_run_killed_while_pruning_resumes_at_its_last_layer(study: StudyFile, tmp_path: Path) -> None:
    study.write(recipes=["dense", "sparsegpt-50"], **LITTLE)
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    layer = "_unfinished/tiny-a/sparsegpt-50/layer-0000.safetensors"
    assert stop_once_there_is(layer, signal.SIGKILL, Running(study, killed), killed) == -signal.SIGKILL
    before = (killed / layer).stat().st_ino if (killed / layer).exists() else None
    assert not heard(study, killed).failures
    assert before is not None
    assert not heard(study, undisturbed).failures
    assert variant_of(killed, "sparsegpt-50") == variant_of(undisturbed, "sparsegpt-50")
    assert not list((killed / "_unfinished").rglob("*.safetensors"))


def test_a_damaged_file_is_removed_so_that_the_next_run_prunes_again(study: StudyFile, tmp_path: Path) -> None:
    study.write(recipes=["dense", "magnitude-50"], **LITTLE)
    warehouse, session = tmp_path / "warehouse", ModelSession()
    computed(study, warehouse, ("models", "calibration"), session=session)
    computed(study, warehouse, "variants", "dense", "magnitude-50", session=session)
    (file,) = (warehouse / "_variants/tiny-a/magnitude-50").iterdir()
    content = bytearray(file.read_bytes())
    content[-3] ^= 16
    file.write_bytes(content)
    with pytest.raises(InputError, match="run its study again"):
        computed(study, warehouse, "mask_samples", "magnitude-50")
    assert not file.exists()
    computed(study, warehouse, "variants", "magnitude-50")
    verify_variant(file)


def test_a_pass_that_fails_although_each_variant_succeeds_is_reported(
    study: StudyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study.write(recipes=["dense", *FAMILY[:2]], **LITTLE)
    session, root, prune_all = ModelSession(), tmp_path / "warehouse", apply.prune_all
    with one_thread():
        computed(study, root, "models", session=session)
        computed(study, root, "variants", "a", "b", session=session)
        assert not caplog.records

        def broken(decoder: Any, recipes: Sequence[Recipe], *arguments: Any) -> Any:
            if len(recipes) > 1:
                raise ValueError("no such name")
            return prune_all(decoder, recipes, *arguments)

        monkeypatch.setattr(apply, "prune_all", broken)
        tables = computed(study, root, "variants", "a", "b", session=session)
    assert [table.recipe for table in tables] == ["a", "b"]
    (record,) = caplog.records
    assert record.getMessage() == "variants: a, b failed in one pass and not one by one (ValueError: no such name)"


def test_statistics_of_other_inputs_prune_nothing(study: StudyFile, warehouse: Path) -> None:
    before = partitions(warehouse)
    study.write(dtype="bfloat16", noise=[])
    with pytest.raises(InputError, match="block_influence of tiny-a is missing or outdated; compute it first"):
        computed(study, warehouse, "variants", "attn-drop-1")
    assert partitions(warehouse) == before
    computed(study, warehouse, "calibration")
    computed(study, warehouse, "variants", "attn-drop-1")
