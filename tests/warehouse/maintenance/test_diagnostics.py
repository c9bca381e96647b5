"""Diagnosis of a warehouse: every kind of problem, and none in a sound one."""

import math
import os
import re
import shutil
from collections import namedtuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prunescope.warehouse.catalogue import database
from prunescope.warehouse.maintenance import diagnostics
from prunescope.warehouse.maintenance.diagnostics import diagnose
from prunescope.warehouse.storage.provenance import footer_json
from prunescope.warehouse.tables import TABLES
from tests.warehouse.conftest import provenance_of, put, rows_of
from tests.warehouse.storage.test_atomic_write import temporary_name

VARIANTS = TABLES["variants"]


@pytest.fixture
def filled(store, fill):
    fill(store, "tiny", "wanda-50")
    for name in ("models", "variants"):
        put(store, TABLES[name], "x" * 200, "../..")
    return store


def only(findings):
    [finding] = findings
    assert finding.fix
    return finding.level, finding.subject, finding.message


def flipped(content):
    return content[:60] + bytes([content[60] ^ 1]) + content[61:]


def test_a_sound_warehouse_has_no_findings(filled):
    filled.write_bytes("_reports/report.html", lambda path: path.touch())
    temporary_name(filled)
    assert diagnose(filled.root) == []


@pytest.mark.parametrize(
    "damaged",
    [lambda content: b"", lambda content: content[:50], lambda content: content[:-1], flipped],
    ids=["empty", "begun", "cut", "flipped bit in a page"],
)
@pytest.mark.parametrize("model", ["tiny", "x" * 200])
def test_a_damaged_file_is_found_whatever_its_name(filled, damaged, model):
    path = filled.path(TABLES["models"], model, None)
    path.write_bytes(damaged(path.read_bytes()))
    level, subject, message = only(diagnose(filled.root))
    assert (level, subject) == ("error", str(path))
    assert "is damaged" in message


def test_violations_are_reported(filled):
    rows = rows_of(VARIANTS).with_columns(sparsity=pl.lit(math.nan))
    path = put(filled, VARIANTS, rows=rows).path
    assert only(diagnose(filled.root)) == (
        "error",
        str(path),
        "violates a check: finite: 1 rows, such as sparsity = nan at model=tiny, recipe=wanda-50",
    )


def test_a_partition_moved_by_hand_is_found(filled):
    path = filled.path(VARIANTS, "tiny", "wanda-50")
    moved = filled.path(VARIANTS, "tiny", "magnitude-50")
    moved.parent.mkdir()
    shutil.copy(path, moved)
    level, subject, message = only(diagnose(filled.root))
    assert (level, subject) == ("error", str(moved))
    assert "it holds tiny@wanda-50, which belongs at another path" in message


def test_columns_of_no_version_are_found(filled):
    path = filled.path(VARIANTS, "tiny", "wanda-50")
    rows = filled.read(VARIANTS, "tiny", "wanda-50").drop_columns(["sparsity"]).append_column("old", pa.array([1]))
    footer = {b"prunescope": footer_json(provenance_of("tiny", "wanda-50"), ())}
    pq.write_table(rows.replace_schema_metadata(footer), path)
    message = "fits no version of its table: its columns differ in old, sparsity"
    assert only(diagnose(filled.root)) == ("warning", str(path), message)


def test_foreign_files_are_found(filled):
    (filled.root / "notes").mkdir()
    (filled.root / "models" / "notes.txt").touch()
    found = {(item.level, item.subject) for item in diagnose(filled.root)}
    assert found == {("warning", str(filled.root / place)) for place in ("notes", "models/notes.txt")}


def test_an_abandoned_temporary_is_found(filled):
    path = filled.root / "models" / ".prunescope-tmp-ffffffff-1-00000000.parquet"
    path.touch()
    os.utime(path, (0, 0))
    assert only(diagnose(filled.root)) == ("warning", str(path), "left behind by a run that was killed")


def test_a_full_disk_and_a_folder_without_permission_are_found(filled, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 40, 1 << 40, 5 << 20))
    monkeypatch.setattr(os, "access", lambda *_: False)
    messages = [(item.level, item.message) for item in diagnose(filled.root)]
    assert messages == [("error", "cannot be written"), ("warning", "has 5 MiB left")]


def test_a_broken_view_is_found(filled, monkeypatch, tmp_path):
    (tmp_path / "marts").mkdir()
    (tmp_path / "marts" / "a.sql").write_text("select * from nothing")
    monkeypatch.setattr(database, "SQL", tmp_path)
    level, _, message = only(diagnose(filled.root))
    assert level == "error"
    assert re.search(r"a\.sql: .*nothing does not exist", message)


@pytest.mark.parametrize("when", ["before its footer is read", "before its rows are read"])
def test_a_partition_removed_meanwhile_is_no_finding(filled, monkeypatch, when):
    gone, real = filled.path(TABLES["generations"], "tiny", "wanda-50"), diagnostics.read_footer

    def removed(path):
        if path != gone:
            return real(path)
        footer = real(path) if when == "before its rows are read" else None
        path.unlink()
        return footer or real(path)

    monkeypatch.setattr(diagnostics, "read_footer", removed)
    assert diagnose(filled.root) == []
    assert not gone.exists()
