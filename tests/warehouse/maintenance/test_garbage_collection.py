"""Garbage collection, which removes only files that no study names."""

import os
import time

import pytest

from prunescope.assets.cli.maintenance import _described
from prunescope.warehouse.maintenance.garbage_collection import StudyScope, removable, remove, waste
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.warehouse.conftest import put

VARIANTS, MODELS = TABLES["variants"], TABLES["models"]
KEPT = StudyScope("mine", frozenset({"tiny", "../../x"}), frozenset({"dense", "wanda-50"}))


def write(store, model, recipe, study="mine"):
    for table in (MODELS, VARIANTS):
        put(store, table, model, recipe, study=study)


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
    assert told(store, KEPT, StudyScope("other", frozenset(), frozenset())) == set()


def test_an_empty_or_missing_warehouse_has_no_waste(store):
    assert told(store) == set()


def test_unnamed_files_are_listed_with_the_study_that_computed_them(store):
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
        ("unfinished", "_unfinished/other/dense/layer-0000.safetensors", "theirs"),
        ("report", "_reports/theirs.html", "theirs"),
        ("report", "_reports/mine-notes.html", "mine-notes"),
    }
    theirs = StudyScope("theirs", frozenset({"tiny", "other"}), frozenset({"gone", "dense"}))
    assert told(store, KEPT, theirs) == {("report", "_reports/mine-notes.html", "mine-notes")}


def test_a_recipe_of_one_study_does_not_keep_the_models_of_another(store):
    write(store, "tiny", "dense")
    write(store, "other", "wanda-50")
    one, two = (
        StudyScope("one", frozenset({"tiny"}), frozenset({"wanda-50"})),
        StudyScope("two", frozenset({"other"}), frozenset({"dense"})),
    )
    assert {path for kind, path, _ in told(store, one, two) if kind == "partition"} == {
        "variants/model=tiny/recipe=dense/part.parquet",
        "variants/model=other/recipe=wanda-50/part.parquet",
    }


def test_masks_of_other_parameters_are_waste_unless_their_row_is_pending(store):
    write(store, "tiny", "dense")
    masks(store, f"tiny/dense/{'f' * 16}")
    older = masks(store, f"tiny/dense/{'e' * 16}")
    coming = masks(store, f"tiny/wanda-50/{'a' * 16}")
    # Another machine may be about to write the row of either.
    assert waste(store, [KEPT], store.root) == []
    two_hours_ago = time.time() - 2 * 3600
    os.utime(older, (two_hours_ago, two_hours_ago))
    assert [each.path for each in waste(store, [KEPT], store.root)] == [older]
    os.utime(coming, (two_hours_ago, two_hours_ago))
    found = waste(store, [KEPT], store.root)
    assert {each.path for each in found} == {older, coming}
    assert removable(found, ()) == found


def test_unfinished_layers_of_a_remote_warehouse_are_on_this_machine(tmp_path):
    store = Store("memory://warehouse/x")
    local = store.local(tmp_path)
    layer = local / "_unfinished/other/dense/layer-0000.safetensors"
    layer.parent.mkdir(parents=True)
    layer.write_bytes(b"123")
    write(store, "other", "dense")
    found = waste(store, [KEPT], local)
    assert [each.kind for each in found] == ["partition", "partition", "unfinished"]
    assert [each.path for each in found] == [
        store.root / "models/model=other/part.parquet",
        store.root / "variants/model=other/recipe=dense/part.parquet",
        layer,
    ]
    assert remove(store, found) > 3
    assert waste(store, [KEPT], local) == []
    assert not layer.parent.exists()


def test_removal_frees_the_listed_bytes_and_leaves_no_empty_folder(store):
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
    assert remove(store, found) > 0  # files that another process removed meanwhile are no error


def test_a_file_that_cannot_be_removed_is_reported(store, monkeypatch):
    from pathlib import Path

    from prunescope.warehouse.core.errors import WarehouseError

    write(store, "other", "dense")
    found = waste(store, [KEPT], store.root)

    def refuse(path, missing_ok=False):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(WarehouseError, match=r"part\.parquet .*no permission"):
        remove(store, found)
    assert len(Store(store.root).partitions(VARIANTS)) == 1


def test_results_are_removed_only_by_the_name_of_their_study(store):
    """Write results of `run mine --model other` and `--recipe gone`: the study in their footers names neither."""
    write(store, "tiny", "dense")
    write(store, "tiny", "gone")
    write(store, "other", "dense", study="theirs")
    masks(store, f"tiny/gone/{'f' * 16}")
    for place in (
        "_unfinished/tiny/gone/layer-0000.safetensors",
        "_unfinished/tiny/killed/layer-0000.safetensors",
        "_unfinished/tiny/search-1a2b3c4d/journal/0123.npz",
        "_unfinished/other/search-1a2b3c4d/journal/0123.npz",
        "_reports/mine.html",
        "_reports/mine-0123abcd.html",
        "_reports/theirs.html",
    ):
        store.write_bytes(place, lambda path: path.touch())
    found = waste(store, [KEPT], store.root)

    def chosen(*computed_by):
        return {(each.kind, each.path.relative_to(store.root).parts[1:3]) for each in removable(found, computed_by)}

    # The interrupted search of the study's model goes on; that of another model has no study.
    free = {("unfinished", ("tiny", "killed")), ("unfinished", ("other", "search-1a2b3c4d"))}
    mine = {
        ("partition", ("model=tiny", "recipe=gone")),
        ("variant", ("tiny", "gone")),
        ("unfinished", ("tiny", "gone")),
        ("report", ("mine-0123abcd.html",)),
    }
    theirs = {
        ("partition", ("model=other", "part.parquet")),
        ("partition", ("model=other", "recipe=dense")),
        ("report", ("theirs.html",)),
    }
    assert chosen() == chosen("nobody", "") == free
    assert chosen("mine") == free | mine
    assert chosen("theirs") == free | theirs
    assert chosen("mine", "theirs") == free | mine | theirs
    assert len(found) == len(free | mine | theirs)


def test_a_damaged_partition_is_removed_with_no_name(store):
    write(store, "other", "dense")
    store.path(MODELS, "other", None).write_bytes(b"PAR1")
    found = waste(store, [KEPT], store.root)
    assert {_described(each)["removed_by"] for each in found} == {
        "none, it is damaged: delete it by hand",
        "--yes --computed-by mine",
    }
    assert [each.study for each in removable(found, ("mine", ""))] == ["mine"]


def test_files_removed_meanwhile_are_not_listed(store, monkeypatch):
    write(store, "other", "dense")
    masks(store, f"other/dense/{'f' * 16}")
    real = store.partitions

    def removed_after(table):
        found = real(table)
        for each in found if table is VARIANTS else ():
            each.path.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(store, "partitions", removed_after)
    assert [each.path for each in waste(store, [KEPT], store.root)] == [store.path(MODELS, "other", None)]
