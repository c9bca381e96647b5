"""Recipes with a calibration of their own, equal to those of a study with that calibration."""

from collections.abc import Callable
from pathlib import Path

import pytest

from prunescope import open as open_warehouse
from prunescope.assets.execution.model_session import ModelSession
from prunescope.assets.planning.fingerprints import expected
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.assets.publishing.paper_export import _calibrations
from prunescope.pipelines.studies import Study
from tests.assets.execution.test_pruned_together import LITTLE
from tests.assets.planning.test_fingerprints import IDENTITY
from tests.assets.tiny_study import StudyFile, computed, rows
from tests.tiny_models import SHORT_TEXT

SHARED = {"source": SHORT_TEXT, "sequences": 2, "length": 32}
# Every way to read the tokens: behind pruned layers, the model's moments, a shared pass, the model's influences, parts,
# treatments that read each of these or nothing.
KINDS: dict[str, dict[str, object]] = {
    "wanda": {"method": "wanda", "sparsity": 0.5},
    "moments": {"method": "wanda", "sparsity": 0.5, "predecessors": "dense"},
    "gram": {"method": "sparsegpt", "sparsity": 0.5, "predecessors": "dense"},
    "owl": {"method": "magnitude", "sparsity": 0.5, "ratios": "owl"},
    "drop": {"method": "attn-drop", "count": 1},
    "both": {"method": "composed", "parts": ["attn-drop-1", "wanda-50"]},
    "mixed": {
        "method": "mixed",
        "treatments": {"attn.0": "wanda-50", "mlp.1": "drop", "mlp.2": "sparsegpt-30", "attn.2": "rtn-4bit"},
        "predecessors": "dense",
    },
}


def of(suffix: str, **more: object) -> list[dict[str, object]]:
    return [{"name": f"{name}{suffix}", **kind, **more} for name, kind in KINDS.items()]


def compute_variants(study: StudyFile, warehouse: Path) -> None:
    """Prune each variant."""
    session = ModelSession()
    names = [recipe.name for recipe in StudyRequest(str(study.path)).load().recipes]
    computed(study, warehouse, ("models", "calibration"), session=session)
    computed(study, warehouse, "variants", *names, session=session)


def variants_of(warehouse: Path) -> dict[str, dict[str, object]]:
    """Return the rows of `variants` by recipe."""
    found = rows(warehouse).items()
    return {row["recipe"]: row for path, table in found if path.startswith("variants/") for row in table.to_pylist()}


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, cache: Path) -> tuple[StudyFile, Path]:
    """Compute a study that prunes on its own tokens and on others."""
    folder = tmp_path_factory.mktemp("beside")
    recipes = ["dense", *of(""), *of("-other", calibration={"seed": 1})]
    study = StudyFile(folder / "tiny.yaml", tiny_folder, keys=LITTLE | {"calibration": SHARED, "recipes": recipes})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNESCOPE_CACHE", str(cache))
        compute_variants(study, folder / "warehouse")
    return study, folder / "warehouse"


@pytest.mark.exhaustive  # test_checkpoint.py prunes with a calibration of the recipe and of the command
def test_a_recipe_on_its_own_tokens_equals_that_of_a_study_on_these_tokens(
    beside: tuple[StudyFile, Path], tmp_path: Path, tiny_folder: Path
) -> None:
    keys = LITTLE | {"calibration": SHARED | {"seed": 1}, "recipes": ["dense", *of("")]}
    compute_variants(StudyFile(tmp_path / "tiny.yaml", tiny_folder, keys=keys), tmp_path / "other")
    here, there = variants_of(beside[1]), variants_of(tmp_path / "other")
    for name in KINDS:
        for column in ("variant_hash", "calibration_hash", "drop_order", "drop_scores"):
            assert here[f"{name}-other"][column] == there[name][column], (name, column)
        assert here[f"{name}-other"]["calibration_hash"] != here[name]["calibration_hash"]
    assert here["wanda-other"]["variant_hash"] != here["wanda"]["variant_hash"]


@pytest.fixture
def versions(study: StudyFile) -> Callable[..., dict[str, str]]:
    """Return the fingerprint of every variant under a calibration of the study."""

    def found(**calibration: object) -> dict[str, str]:
        study.write(calibration=SHARED | calibration)
        whole: Study = StudyRequest(str(study.path)).load()
        return {recipe.name: expected("variants", whole, IDENTITY, recipe) for recipe in whole.recipes}

    return found


def test_the_calibration_of_a_recipe_inherits_missing_keys_from_the_study(
    study: StudyFile, versions: Callable[..., dict[str, str]]
) -> None:
    own = ({"seed": 1}, {"seed": 1, "length": 32})
    recipes = [{"name": name, **KINDS["wanda"], "calibration": given} for name, given in zip("ab", own, strict=True)]
    study.write(recipes=["dense", "magnitude-50", "wanda-50", *recipes])
    before, after = versions(), versions(length=16)
    assert {name for name in before if before[name] != after[name]} == {"wanda-50", "a"}


@pytest.mark.exhaustive  # test_methods_section.py describes a calibration by its hash
def test_the_methods_section_describes_each_calibration(beside: tuple[StudyFile, Path]) -> None:
    with open_warehouse(beside[1]) as connection:
        known = _calibrations(connection, StudyRequest(str(beside[0].path)).load())
    assert {drawn["seed"] for drawn in known.values()} == {0, 1}
