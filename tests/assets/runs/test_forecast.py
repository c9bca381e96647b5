"""The predicted seconds of a study's steps: earlier variants' of the same kind, others' by size, else sizes alone."""

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
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import Study, load_study
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import read_footer
from prunescope.warehouse.tables import TABLES
from tests.assets.tiny_study import RECIPES, VARIANT_TABLES, StudyFile

MACHINE = Machine(layers=1.0, head=1.0)
WANDA, MAGNITUDE = parse_recipe("wanda-60"), parse_recipe("magnitude-30")


def earlier(step: str, recipe: str, size: float, seconds: float) -> tuple[StepWork, float]:
    """Return a finished step that by its size takes so many seconds, and those that it took."""
    return StepWork(step, Work(size), parse_recipe(recipe)), seconds


def test_sizes_alone_are_divided_by_the_speed_of_the_machine() -> None:
    fast = Forecast(Machine(layers=10.0, head=20.0))
    assert fast.seconds(StepWork("traces", Work(100.0, 100.0), WANDA)) == 10 + 5


def test_earlier_variants_of_the_same_method_count_first_in_proportion_to_their_size() -> None:
    alike = earlier("traces", "wanda-50", 40, 90), earlier("traces", "wanda-2of4", 60, 110)
    found = Forecast(MACHINE, [*alike, earlier("traces", "magnitude-50", 1, 999), earlier("texts", "wanda-50", 1, 999)])
    assert found.seconds(StepWork("traces", Work(25.0), WANDA)) == 25 * (90 + 110) / (40 + 60)


def test_what_has_no_size_takes_as_long_as_it_took_others_of_its_method() -> None:
    found = Forecast(MACHINE, [earlier("variants", "magnitude-40", 0, 8), earlier("variants", "magnitude-50", 0, 12)])
    assert found.seconds(StepWork("variants", Work(), MAGNITUDE)) == 10
    # Nothing follows for another method.
    assert found.seconds(StepWork("variants", Work(30.0), WANDA)) == 30


def test_variants_of_other_methods_give_their_pace_and_other_steps_nothing() -> None:
    found = Forecast(MACHINE, [earlier("traces", "attn-drop-1", 80, 180), earlier("texts", "wanda-50", 100, 400)])
    for recipe in (WANDA, None):  # None: the work of the dense model, which no footer has
        assert found.seconds(StepWork("traces", Work(50.0), recipe)) == 50 * 180 / 80
    assert found.seconds(StepWork("tasks", Work(50.0), WANDA)) == 50


def sizes_of(study: Study, folder: Path) -> Workload:
    return check_outline(study, load_meta_model(folder), study.tasks)


@pytest.fixture
def load(study: StudyFile) -> Workload:
    return sizes_of(load_study(str(study.path)), study.model)


def seconds_in(root: Path, recipe: str, step: str) -> float:
    path = root / STEPS[step].tables[0] / "model=tiny-a" / f"recipe={recipe}" / "part.parquet"
    return read_footer(path).provenance.seconds


def earlier_of(study: StudyFile, root: Path) -> dict[tuple[str, str], tuple[Work, float]]:
    """Return the work and the seconds of the earlier steps that a forecast finds, by step and method."""
    spec, works = load_study(str(study.path)), [PartitionWork("tiny-a", None, MODEL_TABLES)]
    dense = find_model(spec, "tiny-a", SILENT)
    works += [PartitionWork("tiny-a", recipe, VARIANT_TABLES) for recipe in spec.recipes]
    found = forecast(Store(root), dense, sizes_of(spec, dense.folder), works).earlier
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
            assert found[step, recipe.method][1] == seconds_in(computed_once, name, step)
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


def test_every_step_of_every_variant_has_its_work(load: Workload, study: StudyFile) -> None:
    recipes = load.study.recipes
    works = [
        PartitionWork("tiny-a", None, MODEL_TABLES),
        *(PartitionWork("tiny-a", it, VARIANT_TABLES) for it in recipes),
    ]
    found = step_works(load, works)
    shared = {step.step: step.work for step in found if step.recipe is None}
    assert shared == {
        "calibration": load.work("calibration", None),
        "traces": load.work("traces", None),
        "texts": load.work("texts", None),
    }

    for name in ("variants", "traces", "texts", "tasks"):
        own = {step.recipe: step.work for step in found if step.step == name and step.recipe is not None}
        assert own == {recipe: load.work(name, recipe) for recipe in recipes}, name
        assert sum(own.values(), Work()) != Work(), name
    assert {step.step for step in found} == {"calibration", "variants", "mask_samples", "traces", "texts", "tasks"}


def test_the_dense_side_is_computed_once_for_all_variants_that_are_traced_together(
    load: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = [parse_recipe(f"magnitude-{percent}") for percent in range(10, 30)]
    works = [PartitionWork("tiny-a", recipe, VARIANT_TABLES) for recipe in recipes]
    size = load.bytes_per_variant
    for most, groups in ((100 * size, 2), (5 * size, 4), (size // 2, 20)):
        monkeypatch.setattr("prunescope.assets.runs.forecast.MAX_RESULT_BYTES", most)
        [dense] = [one.work for one in step_works(load, works) if one.recipe is None and one.step == "traces"]
        assert dense == load.work("traces", None, groups)
