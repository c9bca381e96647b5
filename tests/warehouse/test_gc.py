"""Only what no study names is waste, and only what is waste is removed."""

import os
import time

import pytest

from tests.warehouse.conftest import provenance_of, rows_of
from warehouse.gc import Named, remove, waste
from warehouse.store import Store
from warehouse.tables import TABLES

VARIANTS, MODELS = TABLES["variants"], TABLES["models"]
KEPT = Named("mine", frozenset({"tiny", "../../x"}), frozenset({"dense", "wanda-50"}))


def write(store, model, recipe, study="mine", fingerprint="f" * 64):
    for table, of in ((MODELS, None), (VARIANTS, recipe)):
        made = provenance_of(model, of, study=study, fingerprint=fingerprint)
        store.write(table, rows_of(table, model, of, rows=1), made, model, of)


def masks(store, place):
    return store.write_bytes(f"_variants/{place}.safetensors", lambda path: path.write_bytes(b"x" * 10))


def told(store, *studies):
    return {
        (each.kind, str(each.path.relative_to(store.root)), each.study) for each in waste(store, studies, store.root)
    }


def test_a_warehouse_whose_studies_are_all_given_has_no_waste(store):
    write(store, "tiny", "dense")
    write(store, "../../x", "wanda-50")
    masks(store, f"tiny/dense/{'f' * 16}")
    store.write_bytes("_reports/mine.html", lambda path: path.touch())
    store.write_bytes("_reports/mine-0123abcd.html", lambda path: path.touch())
    store.write_bytes("_catalogue/prunescope.duckdb", lambda path: path.touch())
    store.write_bytes("_unfinished/tiny/wanda-50/layer-0000.safetensors", lambda path: path.touch())
    assert told(store, KEPT) == set()
    assert told(store, KEPT, Named("other", frozenset(), frozenset())) == set()


def test_an_empty_or_missing_warehouse_has_no_waste(store):
    assert told(store) == set()


def test_everything_that_no_study_names_is_told_with_the_study_that_computed_it(store):
    write(store, "tiny", "gone", study="theirs")
    write(store, "other", "dense", study="theirs")
    masks(store, f"tiny/gone/{'f' * 16}")
    store.write_bytes("_reports/theirs.html", lambda path: path.touch())
    store.write_bytes("_reports/mine-notes.html", lambda path: path.touch())
    store.write_bytes("_unfinished/other/dense/layer-0000.safetensors", lambda path: path.touch())
    assert told(store, KEPT) == {
        ("partition", "models/model=other/part.parquet", "theirs"),
        ("partition", "variants/model=other/recipe=dense/part.parquet", "theirs"),
        ("partition", "variants/model=tiny/recipe=gone/part.parquet", "theirs"),
        ("variant", f"_variants/tiny/gone/{'f' * 16}.safetensors", "theirs"),
        ("unfinished", "_unfinished/other/dense/layer-0000.safetensors", ""),
        ("report", "_reports/theirs.html", "theirs"),
        ("report", "_reports/mine-notes.html", "mine-notes"),
    }
    theirs = Named("theirs", frozenset({"tiny", "other"}), frozenset({"gone", "dense"}))
    assert told(store, KEPT, theirs) == {("report", "_reports/mine-notes.html", "mine-notes")}


def test_a_recipe_of_one_study_does_not_keep_the_models_of_another(store):
    write(store, "tiny", "dense")
    write(store, "other", "wanda-50")
    one, two = (
        Named("one", frozenset({"tiny"}), frozenset({"wanda-50"})),
        Named("two", frozenset({"other"}), frozenset({"dense"})),
    )
    assert {path for kind, path, _ in told(store, one, two) if kind == "partition"} == {
        "variants/model=tiny/recipe=dense/part.parquet",
        "variants/model=other/recipe=wanda-50/part.parquet",
    }


def test_masks_of_other_parameters_are_waste_and_those_whose_row_is_still_to_come_are_not(store):
    write(store, "tiny", "dense")
    masks(store, f"tiny/dense/{'f' * 16}")
    older = masks(store, f"tiny/dense/{'e' * 16}")
    coming = masks(store, f"tiny/wanda-50/{'a' * 16}")
    assert [each.path for each in waste(store, [KEPT], store.root)] == [older]
    two_hours_ago = time.time() - 2 * 3600
    os.utime(coming, (two_hours_ago, two_hours_ago))
    assert {each.path for each in waste(store, [KEPT], store.root)} == {older, coming}


def test_a_damaged_partition_that_no_study_names_is_waste_of_an_unknown_study(store):
    write(store, "other", "dense")
    path = store.path(MODELS, "other", None)
    path.write_bytes(b"PAR1")
    assert ("partition", "models/model=other/part.parquet", "") in told(store, KEPT)


def test_removing_frees_what_was_told_and_leaves_no_empty_folder(store):
    write(store, "tiny", "dense")
    write(store, "other", "dense")
    masks(store, f"other/dense/{'f' * 16}")
    temporary = store.root / "variants" / ".prunescope-tmp-ffffffff-1-00000000.parquet"
    temporary.write_bytes(b"half")
    os.utime(temporary, (0, 0))
    before = {path for path in store.root.rglob("*") if "tiny" in str(path)}
    found = waste(store, [KEPT], store.root)
    assert {each.kind for each in found} == {"temporary", "partition", "variant"}
    assert remove(store, found) == sum(each.bytes for each in found) > 0
    assert waste(store, [KEPT], store.root) == []
    assert {path for path in store.root.rglob("*") if path.name != "models" and path.name != "variants"} == before
    assert store.read(VARIANTS, "tiny", "dense").num_rows == 1
    assert remove(store, found) > 0  # what somebody else has removed meanwhile is gone, and no error


def test_a_file_that_cannot_be_removed_is_told(store, monkeypatch):
    from pathlib import Path

    from warehouse.errors import WarehouseError

    write(store, "other", "dense")
    found = waste(store, [KEPT], store.root)

    def refuse(path, missing_ok=False):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(WarehouseError, match=r"part\.parquet .*no permission"):
        remove(store, found)
    assert len(Store(store.root).partitions(VARIANTS)) == 1
