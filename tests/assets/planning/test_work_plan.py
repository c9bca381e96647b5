"""The plan of a run, from the footers in the warehouse."""

import re
import warnings
from pathlib import Path

import pytest

from prunescope.assets.defs.answer_assets import write_published
from prunescope.assets.planning.freshness import warehouse_version
from prunescope.assets.planning.steps import MODEL_TABLES, TRACE_TABLES
from prunescope.assets.planning.work_plan import Plan, StudyRequest
from prunescope.assets.runs.study_run import StudyRun
from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.core.errors import DamagedFileWarning
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.assets.planning.test_fingerprints import H
from tests.assets.tiny_study import RECIPES, VARIANT_TABLES, Heard, StudyFile, partitions
from tests.warehouse.conftest import put


def plan(study: StudyFile, warehouse: Path, *, replace: bool = False) -> Plan:
    return StudyRun(StudyRequest(str(study.path)), Store(warehouse), Heard(), replace=replace).plan()


def todo(found: Plan) -> dict[str, tuple[str, ...]]:
    return {work.name: work.tables for work in found.works}


def test_an_empty_warehouse_needs_everything(study: StudyFile, tmp_path: Path) -> None:
    found = plan(study, tmp_path / "nothing")
    assert todo(found) == {"tiny-a": MODEL_TABLES} | {f"tiny-a@{recipe}": VARIANT_TABLES for recipe in RECIPES}
    assert found.is_report_stale
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("place", ["disk", "memory://versions"])
def test_a_warehouse_has_one_version_until_a_partition_changes(tmp_path: Path, place: str) -> None:
    store = Store(tmp_path if place == "disk" else f"{place}/{tmp_path.name}")
    write_published(store)
    before = warehouse_version(store)
    assert warehouse_version(Store(store.root)) == before
    table = TABLES["variants"]
    put(store, table, "tiny", "dense")
    assert warehouse_version(store) != before


def test_a_computed_study_needs_nothing(study: StudyFile, warehouse: Path) -> None:
    assert plan(study, warehouse).is_empty


def test_a_study_without_the_dense_recipe_gets_it(study: StudyFile, tmp_path: Path) -> None:
    study.write(recipes=["magnitude-50"])
    assert "tiny-a@dense" in todo(plan(study, tmp_path))


def test_a_missing_table_is_computed_again(study: StudyFile, warehouse: Path) -> None:
    (warehouse / "top_tokens/model=tiny-a/recipe=dense/part.parquet").unlink()
    assert todo(plan(study, warehouse)) == {"tiny-a@dense": ("top_tokens",)}


def test_a_damaged_partition_is_computed_again(study: StudyFile, warehouse: Path) -> None:
    damaged = warehouse / "generations/model=tiny-a/recipe=dense/part.parquet"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.warns(DamagedFileWarning, match=f"{re.escape(str(damaged))} is damaged .*; a run replaces it"):
        assert todo(plan(study, warehouse)) == {"tiny-a@dense": ("generations",)}


def test_a_folder_in_the_place_of_a_partition_is_work_of_its_variant_alone(study: StudyFile, warehouse: Path) -> None:
    folder = warehouse / "generations/model=tiny-a/recipe=dense/part.parquet"
    folder.unlink()
    folder.mkdir()
    with pytest.warns(DamagedFileWarning, match=f"{re.escape(str(folder))} is damaged .*; move it away: a run cannot"):
        assert todo(plan(study, warehouse)) == {"tiny-a@dense": ("generations",)}


def test_one_altered_byte_anywhere_in_a_partition_is_found_and_the_partition_computed_again(
    study: StudyFile, warehouse: Path
) -> None:
    assert plan(study, warehouse).is_empty
    for number, name in enumerate(partitions(warehouse)):
        content = bytearray((warehouse / name).read_bytes())
        content[number * 7919 % len(content)] ^= 1 << number % 8
        (warehouse / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DamagedFileWarning)
        found = plan(study, warehouse)
    assert todo(found) == {"tiny-a": MODEL_TABLES} | {f"tiny-a@{recipe}": VARIANT_TABLES for recipe in RECIPES}


@pytest.mark.parametrize("place", [40, -200])
def test_altered_published_numbers_are_written_again(study: StudyFile, warehouse: Path, place: int) -> None:
    damaged = next((warehouse / "paper_reference").rglob("part.parquet"))
    content = bytearray(damaged.read_bytes())
    content[place] ^= 1
    damaged.write_bytes(content)
    with pytest.warns(DamagedFileWarning, match=re.escape(str(damaged))):
        assert plan(study, warehouse).is_report_stale
    write_published(Store(warehouse))
    assert plan(study, warehouse).is_empty


def test_a_missing_mask_file_makes_its_variant_stale(study: StudyFile, warehouse: Path) -> None:
    next((warehouse / "_variants/tiny-a/wanda-2of4").iterdir()).unlink()
    assert todo(plan(study, warehouse)) == {"tiny-a@wanda-2of4": ("variants",)}


def test_a_missing_report_alone_is_computed(study: StudyFile, warehouse: Path) -> None:
    (warehouse / "_reports/tiny.html").unlink()
    found = plan(study, warehouse)
    assert not todo(found)
    assert found.is_report_stale


def test_the_same_inputs_under_another_study_are_not_computed_twice(study: StudyFile, warehouse: Path) -> None:
    study.write(name="second")
    found = plan(study, warehouse)
    assert not todo(found)
    assert found.is_report_stale


def test_partitions_of_another_study_are_not_replaced_unless_requested(study: StudyFile, warehouse: Path) -> None:
    other = {"name": "magnitude-50", "method": "magnitude", "sparsity": 0.4}
    for changes, partition, words in (
        (
            {"generation": {"new_tokens": 5}},
            "layer_transitions of tiny-a@dense",
            f"`generation` and `measure` {H}, now {H}",
        ),
        ({"recipes": ["dense", other]}, "variants of tiny-a@magnitude-50", "`sparsity` of the recipe 0.5, now 0.4"),
    ):
        message = rf"^{partition} was computed by study 'tiny' from other inputs \({words}\); use --replace"
        StudyFile(study.path, study.model, "second", changes)
        with pytest.raises(InputError, match=message):
            plan(study, warehouse)


def test_partitions_of_another_study_are_replaced_on_request(study: StudyFile, warehouse: Path) -> None:
    study.write(name="second", generation={"new_tokens": 5})
    found = todo(plan(study, warehouse, replace=True))
    assert found == {f"tiny-a@{recipe}": TRACE_TABLES for recipe in RECIPES}


def test_the_own_partitions_of_a_study_are_replaced_without_a_request(study: StudyFile, warehouse: Path) -> None:
    study.write(generation={"new_tokens": 5})
    assert set(todo(plan(study, warehouse))) == {f"tiny-a@{recipe}" for recipe in RECIPES}
