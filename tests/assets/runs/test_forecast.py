"""The predicted seconds of a study's steps: earlier variants' of the same kind, others' by size, else sizes alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from prunescope.assets.planning.fingerprints import find_model
from prunescope.assets.planning.steps import MODEL_TABLES, STEPS
from prunescope.assets.planning.work_plan import PartitionWork
from prunescope.assets.runs.forecast import Forecast, StepWork, forecast, step_works
from prunescope.pipelines.core.progress import SILENT
from prunescope.pipelines.models.meta_model import load_meta_model
from prunescope.pipelines.planning.preflight import check_outline
from prunescope.pipelines.planning.workload import Machine, Work, Workload
from prunescope.pipelines.recipes import Recipe, parse_recipe
from prunescope.pipelines.studies import Study, load_study
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import read_footer
from prunescope.warehouse.tables import TABLES
from tests.assets.tiny_study import RECIPES, VARIANT_TABLES, StudyFile

WANDA, MAGNITUDE = parse_recipe("wanda-60"), parse_recipe("magnitude-30")
OF_WANDA = [("traces", "wanda-50", 40, 90), ("traces", "wanda-2of4", 60, 110)]
# The first has another method, the second another step.
OTHERS = [("traces", "magnitude-50", 1, 999), ("texts", "wanda-50", 1, 999)]
WITHOUT_SIZE = [("variants", "magnitude-40", 0, 8), ("variants", "magnitude-50", 0, 12)]
OF_ANOTHER_METHOD = [("traces", "attn-drop-1", 80, 180), ("texts", "wanda-50", 100, 400)]


@pytest.mark.parametrize(
    ("earlier", "asked", "seconds"),
    [
        ([], StepWork("traces", Work(100, 100), WANDA), 10 + 5),
        ([*OF_WANDA, *OTHERS], StepWork("traces", Work(25), WANDA), 25 * (90 + 110) / (40 + 60)),
        (WITHOUT_SIZE, StepWork("variants", Work(), MAGNITUDE), (8 + 12) / 2),
        (WITHOUT_SIZE, StepWork("variants", Work(30), WANDA), 30 / 10),
        (OF_ANOTHER_METHOD, StepWork("traces", Work(50), WANDA), 50 * 180 / 80),
        # The work of the dense model, which no footer has.
        (OF_ANOTHER_METHOD, StepWork("traces", Work(50)), 50 * 180 / 80),
        (OF_ANOTHER_METHOD, StepWork("tasks", Work(50), WANDA), 50 / 10),
    ],
    ids=["sizes", "own method", "own method without size", "no size", "another method", "dense", "another step"],
)
def test_seconds_are_those_of_the_method_by_size_else_of_any_else_of_the_size_on_this_machine(
    earlier: list[tuple[str, str, float, float]], asked: StepWork, seconds: float
) -> None:
    known = [(StepWork(step, Work(size), parse_recipe(recipe)), took) for step, recipe, size, took in earlier]
    assert Forecast(Machine(layers=10.0, head=20.0), known).seconds(asked) == seconds


def sizes_of(study: Study, folder: Path) -> Workload:
    return check_outline(study, load_meta_model(folder), study.tasks)


def works_of(recipes: Sequence[Recipe]) -> list[PartitionWork]:
    tables = [(None, MODEL_TABLES), *((recipe, VARIANT_TABLES) for recipe in recipes)]
    return [PartitionWork("tiny-a", *each) for each in tables]


@pytest.fixture
def load(study: StudyFile) -> Workload:
    return sizes_of(load_study(str(study.path)), study.model)


def earlier_of(study: StudyFile, root: Path) -> dict[tuple[str, str], tuple[Work, float]]:
    """Return the work and the seconds of the earlier steps that a forecast finds, by step and method."""
    spec = load_study(str(study.path))
    dense = find_model(spec, "tiny-a", SILENT)
    found = forecast(Store(root), dense, sizes_of(spec, dense.folder), works_of(spec.recipes)).earlier
    by_key = {(one.step, one.recipe.method): (one.work, seconds) for one, seconds in found if one.recipe}
    assert len(by_key) == len(found)
    return by_key


def test_seconds_are_those_in_the_footers_of_any_study_that_computed_the_same(
    study: StudyFile, computed_once: Path
) -> None:
    study.write(name="another", recipes=["dense", "wanda-50"])  # without most of what is there
    found = earlier_of(study, computed_once)
    steps = {"variants", "mask_samples", "traces", "texts", "tasks"}
    recipes = {recipe: parse_recipe(recipe) for recipe in RECIPES}
    assert set(found) == {(step, recipe.method) for step in steps for recipe in recipes.values()}
    for name, recipe in recipes.items():
        for step in steps:
            path = computed_once / STEPS[step].tables[0] / "model=tiny-a" / f"recipe={name}" / "part.parquet"
            assert found[step, recipe.method][1] == read_footer(path).provenance.seconds
    assert found["traces", "wanda"][0].head > found["traces", "dense"][0].head > 0


def test_seconds_under_other_settings_do_not_count(study: StudyFile, computed_once: Path) -> None:
    study.write(
        generation={"new_tokens": 5}, recipes=["dense", {"name": "wanda-2of4", "method": "wanda", "sparsity": 0.3}]
    )
    found = earlier_of(study, computed_once)
    # Longer texts change the traces. A variant counts under its own parameters, not under its name.
    assert {step for step, _ in found} == {"variants", "mask_samples", "texts", "tasks"}
    assert {method for _, method in found} == {"dense", "wanda", "magnitude", "attn-drop"}


def test_a_damaged_footer_and_seconds_of_another_device_are_left_out(study: StudyFile, warehouse: Path) -> None:
    (warehouse / "task_scores/model=tiny-a/recipe=magnitude-50/part.parquet").write_bytes(b"PAR1")
    store, table, variant = Store(warehouse), TABLES["text_tokens"], ("tiny-a", "wanda-2of4")
    made = store.provenance(table, *variant)
    assert made is not None
    store.write(table, pl.DataFrame(store.read(table, *variant)), replace(made, device="cuda:0"), *variant)
    found = earlier_of(study, warehouse)
    assert not {("tasks", "magnitude"), ("texts", "wanda")} & set(found)
    assert {("tasks", "wanda"), ("texts", "dense"), ("traces", "wanda")} <= set(found)


def test_every_step_of_every_variant_has_its_work(load: Workload) -> None:
    recipes = load.study.recipes
    found = step_works(load, works_of(recipes))
    shared = {step.step: step.work for step in found if step.recipe is None}
    assert shared == {name: load.work(name, None) for name in ("calibration", "traces", "texts")}
    for name in ("variants", "traces", "texts", "tasks"):
        own = {step.recipe: step.work for step in found if step.step == name and step.recipe is not None}
        assert own == {recipe: load.work(name, recipe) for recipe in recipes}, name
        assert sum(own.values(), Work()) != Work(), name
    assert {step.step for step in found} == {"calibration", "variants", "mask_samples", "traces", "texts", "tasks"}


def test_the_dense_side_is_computed_once_for_all_variants_that_are_traced_together(
    load: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = works_of([parse_recipe(f"magnitude-{percent}") for percent in range(10, 30)])
    size = load.bytes_per_variant
    for most, groups in ((100 * size, 2), (5 * size, 4), (size // 2, 20)):
        monkeypatch.setattr("prunescope.assets.runs.forecast.MAX_RESULT_BYTES", most)
        [dense] = [one.work for one in step_works(load, works) if one.recipe is None and one.step == "traces"]
        assert dense == load.work("traces", None, groups)
