"""Atomic writes: messages with a fix for errors of the system, and leftovers of killed writers."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.atomic_write import write_atomically
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.warehouse.conftest import leftovers, put

VARIANTS = TABLES["variants"]


def write(store, **changes):
    return put(store, VARIANTS, **changes)


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EIO, "the disk failed"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "no permission"),
        (errno.EDQUOT, "quota"),
        (errno.ESTALE, "Stale"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_refusal_of_the_system_names_the_file_and_the_fix(store, monkeypatch, number, fix, call):
    write(store, fingerprint="old")

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Path if call == "open" else os, call, refuse)
        with pytest.raises(WarehouseError, match=rf"part\.parquet cannot be written; .*{fix}"):
            write(store, fingerprint="new")
    assert leftovers(store.root) == []
    assert store.provenance(VARIANTS, "tiny", "wanda-50").fingerprint == "old"


def test_a_warehouse_below_a_regular_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for root in (tmp_path / "file", tmp_path / "file" / "warehouse"):
        with pytest.raises(WarehouseError, match="choose another place with --warehouse"):
            write(Store(root))
        with pytest.raises(WarehouseError, match="cannot be read"):
            Store(root).provenance(VARIANTS, "tiny", "wanda-50")


def test_a_folder_in_the_place_of_the_file_is_refused(store):
    store.path(VARIANTS, "tiny", "wanda-50").mkdir(parents=True)
    with pytest.raises(WarehouseError, match="a folder is where the file must be"):
        write(store)
    assert leftovers(store.root) == []


def test_an_error_of_the_writer_itself_passes_through_and_leaves_nothing(tmp_path):
    def fail(path):
        path.write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "file.html", fail)
    assert list(tmp_path.iterdir()) == []


def test_two_writers_at_once_leave_one_whole_file(store):
    def write_often(fingerprint):
        for _ in range(5):
            write(store, fingerprint=fingerprint)

    threads = [threading.Thread(target=write_often, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    seen = set()
    while any(thread.is_alive() for thread in threads):
        found = store.provenance(VARIANTS, "tiny", "wanda-50")
        seen.add(found and found.fingerprint)
    for thread in threads:
        thread.join()
    assert seen <= {None, "one", "two"}
    assert store.read(VARIANTS, "tiny", "wanda-50").num_rows == 1
    assert leftovers(store.root) == []


def temporary_name(store):
    """Return the name of a temporary file while it is written."""
    names, removed = [], []

    def fill(path):
        path.touch()
        names.append(path.name)
        removed.extend(store.clean_temporaries())

    store.write_bytes("_reports/report.html", fill)
    assert removed == []
    return names[0]


def test_only_abandoned_temporaries_are_removed(store):
    host = temporary_name(store).split("-")[2]
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = {
        "dead": f".prunescope-tmp-{host}-{gone.pid}-00000000.parquet",
        "elsewhere": f".prunescope-tmp-ffffffff-{gone.pid}-00000000.parquet",
        "old": f".prunescope-tmp-ffffffff-{os.getpid()}-00000000.parquet",
        "odd": ".prunescope-tmp-odd",
        "foreign": ".tmp-of-someone-else",
    }
    for name in names.values():
        (store.root / name).touch()
    two_hours_ago = time.time() - 2 * 3600
    for name in ("old", "foreign"):
        os.utime(store.root / names[name], (two_hours_ago, two_hours_ago))
    removed = {path.name for path in store.clean_temporaries()}
    assert removed == {names["dead"], names["old"]}


def test_the_entry_of_every_new_folder_is_synced_and_that_of_an_old_one_is_not_again(store, monkeypatch):
    real, synced = os.fsync, []

    def recorded(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    file = write(store).path
    folders = [file.parent, *file.parent.parents]
    made = folders[: folders.index(store.root.parent) + 1]
    assert {folder.stat().st_ino for folder in made} <= set(synced)
    assert synced.index(store.root.parent.stat().st_ino) < synced.index(file.stat().st_ino)
    synced.clear()
    write(store)
    assert synced == [file.stat().st_ino, file.parent.stat().st_ino]


def test_a_link_in_the_place_of_a_file_is_replaced_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "theirs").write_text("whole")
    (tmp_path / "mine").symlink_to("theirs")
    write_atomically(tmp_path / "mine", lambda path: path.write_text("new"))
    assert (tmp_path / "theirs").read_text() == "whole"
    assert (tmp_path / "mine").read_text() == "new"
