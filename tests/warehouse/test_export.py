"""An export is complete, says where it comes from, and is the same every time."""

import hashlib
import json

import pyarrow.parquet as pq
import pytest

from tests.warehouse.conftest import noisy_rows, provenance_of
from warehouse import catalogue
from warehouse.catalogue import view_sql
from warehouse.errors import WarehouseError
from warehouse.export import MANIFEST, TYPESET_ROWS, export
from warehouse.tables import TABLES

VIEWS = sorted(name for name, view in view_sql().items() if view.layer in {"marts", "questions"})


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def filled(store, fill):
    fill(store, "tiny", "wanda-50")
    rows = noisy_rows(TABLES["layer_transitions"], 3000, seed=1)
    store.write(TABLES["layer_transitions"], rows, provenance_of("tiny", "wanda-50"), "tiny", "wanda-50")
    return store.root


def test_every_question_and_mart_is_exported_the_same_twice(filled, tmp_path):
    done = export(filled, tmp_path / "one")
    first = content(tmp_path / "one")
    export(filled, tmp_path / "one")
    export(filled, tmp_path / "two", only=VIEWS[:1])
    assert list(done.views) == VIEWS
    assert content(tmp_path / "one") == first
    again = content(tmp_path / "two")
    assert again.pop(MANIFEST) != first[MANIFEST]
    assert again.items() <= first.items()
    assert {path.name for path in done.files} == set(content(tmp_path / "one"))
    for name in VIEWS:
        assert {f"{name}.parquet", f"{name}.csv"} <= set(content(tmp_path / "one"))


def test_the_manifest_has_hashes_sql_and_fingerprints(filled, tmp_path):
    export(filled, tmp_path / "out", only=VIEWS[:2])
    files = content(tmp_path / "out")
    manifest = json.loads(files.pop(MANIFEST))
    assert manifest["files"] == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert {name: view["sql"] for name, view in manifest["views"].items()} == {n: view_sql()[n].sql for n in VIEWS[:2]}
    assert len(manifest["provenance"]) == len(TABLES)
    assert {row["fingerprint"] for row in manifest["provenance"]} == {"f" * 64}
    assert str(filled) not in json.dumps(manifest)


def test_a_later_export_removes_what_it_no_longer_has(filled, tmp_path):
    export(filled, tmp_path / "out", only=VIEWS[:2])
    (tmp_path / "out" / "mine.txt").write_text("mine")
    export(filled, tmp_path / "out", only=VIEWS[1:2])
    left = {name.partition(".")[0] for name in content(tmp_path / "out")}
    assert left == {VIEWS[1], "manifest", "mine"}


def test_a_folder_that_is_no_earlier_export_is_left_alone(filled, tmp_path):
    for name, text in (
        ("notes.txt", "x"),
        (MANIFEST, "{}"),
        (MANIFEST, "[1]"),
        (MANIFEST, "{"),
        (MANIFEST, '{"made_by": 1}'),
    ):
        folder = tmp_path / "used"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        before = content(folder)
        with pytest.raises(WarehouseError, match="is not empty and no earlier export; choose a new folder"):
            export(filled, folder, only=VIEWS[:1])
        assert content(folder) == before
        (folder / name).unlink()


def test_a_file_in_the_place_of_the_folder_is_refused(filled, tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(WarehouseError, match="a part of the path is a file"):
            export(filled, place, only=VIEWS[:1])


def test_a_manifest_from_elsewhere_cannot_delete_files_outside(filled, tmp_path):
    (tmp_path / "precious").write_text("x")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / MANIFEST).write_text(json.dumps({"made_by": "prunescope export", "files": {"../precious": "", "..": ""}}))
    export(filled, folder, only=VIEWS[:1])
    assert (tmp_path / "precious").exists()


def test_an_unknown_view_is_named(filled, tmp_path):
    with pytest.raises(WarehouseError, match="no question or mart q99, models; see `prunescope questions`"):
        export(filled, tmp_path / "out", only=["q99", "models"])
    assert not (tmp_path / "out").exists()


def test_long_views_are_not_typeset(filled, tmp_path, monkeypatch):
    (tmp_path / "marts").mkdir()
    (tmp_path / "marts" / "long.sql").write_text(f"select range as i from range({TYPESET_ROWS + 1})")
    (tmp_path / "marts" / "short.sql").write_text(f"select range as i from range({TYPESET_ROWS})")
    monkeypatch.setattr(catalogue, "SQL", tmp_path)
    done = export(filled, tmp_path / "out")
    assert {path.name for path in done.files} == {
        *("long.parquet", "long.csv", "short.parquet", "short.csv", "short.md", "short.tex", MANIFEST)
    }
    assert pq.read_table(tmp_path / "out" / "long.parquet").num_rows == TYPESET_ROWS + 1
