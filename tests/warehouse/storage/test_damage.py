"""Files, links and folders in a partition's place: readers name them and leave them out, and writing replaces them."""

import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from prunescope.warehouse.catalogue import dataframes
from prunescope.warehouse.catalogue.database import connect
from prunescope.warehouse.core.errors import DamagedFileError, DamagedFileWarning, WarehouseError
from prunescope.warehouse.maintenance.diagnostics import diagnose
from prunescope.warehouse.maintenance.verification import verify
from prunescope.warehouse.maintenance.verified_files import VerifiedFiles
from prunescope.warehouse.storage.file_checksum import UNSEALED, seal
from prunescope.warehouse.storage.footer_probe import TAIL_BYTES, _columns, recognised
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.snapshot import Snapshot, damage_explained
from prunescope.warehouse.tables import TABLES
from tests.warehouse.conftest import noisy_rows, put

TABLE, CURRENT = TABLES["top_tokens"], "f" * 64


def write(store: Store, model: str, recipe: str) -> Path:
    return Path(put(store, TABLE, model, recipe, fingerprint=CURRENT).path)


def of_another(store: Store, path: Path, model: str, recipe: str) -> None:
    """Put the intact file of another partition there."""
    other = write(store, model, recipe)
    shutil.copy(other, path)
    if model != "tiny":
        shutil.rmtree(other.parent.parent)


def of_another_table(store: Store, path: Path) -> None:
    """Put the intact file of the same variant there, of a table that has the key columns of this one, and more."""
    shutil.move(put(store, TABLES["generations"], "tiny", "b", fingerprint=CURRENT).path, path)


def without_names(store: Store, path: Path) -> None:
    """Put a sealed file there whose footer has names that no file can have."""
    rows = pq.read_table(path)
    footer = rows.schema.metadata[b"prunescope"].replace(b'"model": "tiny"', b'"model": ""')
    pq.write_table(rows.replace_schema_metadata({b"prunescope": footer, **UNSEALED}), path)
    seal(path)


def linked(store: Store, path: Path) -> None:
    shutil.move(path, store.root / "kept.parquet")
    path.symlink_to(store.root / "kept.parquet")


def fifo(_: Store, path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def bound(_: Store, path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's name is at most 107 bytes long
        listening.bind(path.name)
        os.chdir(here)


def folder(_: Store, path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[Callable[[Store, Path], None], str]] = {
    "another variant's": (lambda store, path: of_another(store, path, "tiny", "a"), "it holds tiny@a, which belongs"),
    "another model's": (lambda store, path: of_another(store, path, "huge", "b"), "it holds huge@b, which belongs"),
    "another table's": (of_another_table, "it holds rows of generations, which belong"),
    "no name": (without_names, "a model or recipe needs a name"),
    "cut": (lambda _, path: os.truncate(path, 100), "magic bytes not found"),
    "a link": (linked, "it is a symbolic link"),
    "a FIFO": (fifo, "it is not a regular file"),
    "a socket": (bound, "it is not a regular file"),
    "a folder": (folder, "Is a directory"),
}


@pytest.fixture(params=DAMAGES)
def damaged(request: pytest.FixtureRequest, store: Store) -> tuple[Path, str]:
    """A damaged partition of tiny@b beside an intact one of tiny@a, and the reason that messages give."""
    for recipe in ("a", "b"):
        path = write(store, "tiny", recipe)
    damage, reason = DAMAGES[request.param]
    damage(store, path)
    return path, reason


def test_every_reader_names_what_it_leaves_out(store: Store, damaged: tuple[Path, str]) -> None:
    path, reason = damaged
    named = rf"^{re.escape(str(path))} .*{reason}"
    with pytest.warns(DamagedFileWarning, match=named):
        connection = connect(store.root)
    with connection:
        assert connection.sql("SELECT DISTINCT recipe FROM top_tokens").fetchall() == [("a",)]
        assert connection.sql("SELECT recipe FROM provenance").fetchall() == [("a",)]
    with pytest.warns(DamagedFileWarning, match=named):
        assert set(dataframes.scan("top_tokens", store.root).collect()["recipe"]) == {"a"}
    with pytest.warns(DamagedFileWarning, match=named):
        assert [footer.provenance.recipe for _, footer in store.footers(TABLE)] == ["a"]
    with pytest.raises(WarehouseError, match=named):
        store.read(TABLE, "tiny", "b")
    states = {result.path: (result.state in {"changed", "unreadable"}, result.reason) for result in verify(store)}
    assert states.keys() == {path, store.path(TABLE, "tiny", "a")}
    assert states[path][0]
    assert reason in states[path][1]
    assert reason in {item.subject: item.message for item in diagnose(store.root)}[str(path)]


def test_a_run_replaces_it_and_nothing_else(store: Store, damaged: tuple[Path, str], tmp_path: Path) -> None:
    path, reason = damaged
    with VerifiedFiles(store.root, tmp_path) as files, pytest.warns(DamagedFileWarning, match=reason):
        assert files.is_damaged(path)
    if reason == "Is a directory":
        with pytest.raises(WarehouseError, match="a folder is where the file must be"):
            write(store, "tiny", "b")
        with pytest.raises(WarehouseError, match=r"cannot be read \(Is a directory\); move it away"):
            store.is_current(TABLE, "tiny", "b", CURRENT)
        return
    assert not store.is_current(TABLE, "tiny", "b", CURRENT)
    write(store, "tiny", "b")
    assert store.is_current(TABLE, "tiny", "b", CURRENT)
    assert [result.state for result in verify(store)] == ["intact", "intact"]
    if reason == "it is a symbolic link":
        assert pq.read_table(store.root / "kept.parquet").num_rows == 3, "what the link led to is still there"


@pytest.mark.parametrize("rows", [3, 30_000])
def test_a_wrong_bit_anywhere_in_a_footer_leaves_its_file_out(store: Store, rows: int) -> None:
    """The seal of small files covers the whole file; large files are not read at opening, but their footers are."""
    frames = {each: noisy_rows(TABLE, rows, seed=0).with_columns(recipe=pl.lit(each)) for each in ("a", "b")}
    first, path = (Path(put(store, TABLE, recipe=each, rows=frame).path) for each, frame in frames.items())
    content = path.read_bytes()
    assert (len(content) > TAIL_BYTES) == (rows > 3)
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    whole, footer = (content.index(key) for key in UNSEALED)
    # A large file without the seal of its footer is as good as one that never had it, and the digits of its other seal
    # are not compared at opening. Neither changes a row, and `verify` names both.
    unread = {*range(whole + 15 + 2, whole + 15 + 2 + 32), *range(footer, footer + 22 + 2 + 32)} if rows > 3 else set()
    for place in {*range(start, len(content), 37), *range(whole, footer + 22 + 2 + 32, 5)} - unread:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        with pytest.warns(DamagedFileWarning, match=f"^{re.escape(str(path))} is damaged"):
            assert [file.partition.path for file in Snapshot(store).files] == [first], place


@pytest.mark.parametrize("recipe", ["a", "b"])
def test_a_footer_of_a_large_file_that_only_duckdb_refuses_is_named(store: Store, recipe: str) -> None:
    """Earlier versions sealed no footer. DuckDB reads that of a table's first file at opening, others in a query."""
    for each in ("a", "b"):
        frame = noisy_rows(TABLE, 30_000, seed=0).with_columns(recipe=pl.lit(each))
        put(store, TABLE, recipe=each, rows=frame)
    path = Path(store.path(TABLE, "tiny", recipe))
    content = bytearray(path.read_bytes().replace(b"prunescope_footer_seal", b"prunescope_another_key"))
    assert len(content) > TAIL_BYTES
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    # After the columns comes the number of rows, then the list of row groups; Thrift has no type 13.
    place = content.index(b"\x19", start + len(_columns(TABLE)) + 1)
    content[place] = 0x1D
    path.write_bytes(content)
    assert recognised(TABLE, content[-TAIL_BYTES:]) == ("tiny", recipe)
    named = f"^{re.escape(str(path))} is damaged"
    if recipe == "a":
        with pytest.warns(DamagedFileWarning, match=named):
            connection = connect(store.root)
        assert connection.sql("SELECT DISTINCT recipe FROM top_tokens").fetchall() == [("b",)]
    else:
        connection = connect(store.root)
        with pytest.raises(DamagedFileError, match=named), damage_explained(connection):
            connection.sql("SELECT DISTINCT recipe FROM top_tokens").fetchall()
    connection.close()
