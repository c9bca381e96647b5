"""Crashes and failing disks: no finished file is lost, and no unfinished one is visible."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from prunescope.warehouse.core.errors import DamagedFileError, WarehouseError
from prunescope.warehouse.maintenance import verification
from prunescope.warehouse.maintenance.verification import verify, verify_file
from prunescope.warehouse.storage.provenance import read_footer
from prunescope.warehouse.tables import TABLES
from tests.warehouse.conftest import leftovers, noisy_rows, provenance_of, put

TABLE = TABLES["top_tokens"]
VARIANT = ("tiny", "wanda-50")
ROOT = Path(__file__).parents[3]


def crashing(scenario, folder):
    """Return the report of `crashing.py`."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.warehouse.storage.crashing", scenario, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def write(store, seed=1, **changes):
    return put(store, TABLE, rows=noisy_rows(TABLE, 50, seed), **changes)


def test_a_kill_between_any_two_steps_leaves_the_old_or_the_new_file(tmp_path):
    assert crashing("at_every_step", tmp_path)["steps"] == 11


def test_one_of_two_simultaneous_writers_wins_completely(tmp_path):
    found = crashing("two_at_once", tmp_path)
    assert found["seen"]
    assert set(found["seen"]) <= {"low", "high"}
    assert found["left"] == []


def test_a_read_only_folder_and_a_file_over_its_limit_are_refused_with_the_reason(tmp_path):
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):  # so that another user can reach the file
        folder.chmod(0o755)
    told = crashing("refused", tmp_path)
    assert "part.parquet cannot be written; no permission: make it writable" in told["folder"]
    assert "part.parquet cannot be written; File too large" in told["limit"]


class FullDisk(io.FileIO):
    """Simulate a file on a disk with room for so many bytes."""

    def __init__(self, path, room):
        super().__init__(path, "xb")
        self._room = room

    def write(self, content):
        if len(content) > self._room:
            super().write(memoryview(content)[: self._room])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._room -= len(content)
        return super().write(content)


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.7, 0.95])
def test_a_disk_that_fills_up_leaves_the_old_partition_and_no_temporary(store, monkeypatch, share):
    written = write(store, fingerprint="old")
    before = written.path.read_bytes()
    room, real = int(share * len(before)), Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode="r": FullDisk(path, room) if mode == "xb" else real(path, mode))
        with pytest.raises(WarehouseError, match=r"part\.parquet cannot be written; the disk is full: free some space"):
            write(store, seed=2, fingerprint="new")
    assert written.path.read_bytes() == before
    assert leftovers(store.root) == []
    write(store, seed=2, fingerprint="new")
    assert store.is_current(TABLE, *VARIANT, "new")


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failing_fsync_is_reported_and_one_complete_file_stays(store, monkeypatch, failing):
    write(store, fingerprint="old")
    real, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(WarehouseError, match="the disk failed: check it, then run again"):
            write(store, seed=2, fingerprint="new")
    # The first is that of the file, before it is renamed; the second that of the folder, after.
    assert store.provenance(TABLE, *VARIANT).fingerprint == ("old" if failing == 1 else "new")
    assert verify_file(store.path(TABLE, *VARIANT)).state == "intact"
    assert leftovers(store.root) == []


def test_a_file_cut_anywhere_is_named_by_every_reader(store):
    path = write(store).path
    content = path.read_bytes()
    lengths = [len(content) * percent // 100 for percent in range(100)]
    for length in (*lengths, 1, 4, len(content) - 9, len(content) - 1):
        path.write_bytes(content[:length])
        for ask in (store.read, store.provenance):
            with pytest.raises(DamagedFileError, match=r"part\.parquet is damaged .*; run its study again"):
                ask(TABLE, *VARIANT)
        assert not store.is_current(TABLE, *VARIANT, "f" * 64)
        assert verify_file(path).state == "changed"
    write(store)
    assert store.is_current(TABLE, *VARIANT, "f" * 64)


def test_a_flipped_bit_anywhere_in_the_file_is_found(store):
    path = write(store).path
    content, rows = path.read_bytes(), store.read(TABLE, *VARIANT)
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    places = {
        *range(0, footer, max(1, footer // 150)),
        *range(footer, len(content), 61),
        *range(len(content) - 8, len(content)),
    }
    for place in sorted(places):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        assert verify_file(path).state == "changed", place
        try:
            assert store.read(TABLE, *VARIANT).equals(rows), place
        except DamagedFileError:
            continue
    path.write_bytes(content)
    assert verify_file(path).state == "intact"


def test_a_flipped_bit_in_the_footer_raises_only_damage_errors(store):
    path = write(store).path
    content = path.read_bytes()
    start = content.index(b"prunescope\x18")
    for place in range(start, start + 800, 3):
        for bit in (0, 5, 7):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                read_footer(path)
            except DamagedFileError:
                continue


def test_files_older_than_the_hashes_are_distinguished_from_changed_ones(store):
    from prunescope.warehouse.storage.partition_store import _write_parquet, to_arrow
    from prunescope.warehouse.storage.provenance import FOOTER_KEY, footer_json

    write(store)
    older = store.path(TABLE, "tiny", "older")
    older.parent.mkdir(parents=True)
    rows = to_arrow(TABLE, noisy_rows(TABLE, 2000, seed=0).with_columns(pl.lit("older").alias("recipe")))
    said = footer_json(provenance_of("tiny", "older"), ())
    _write_parquet(rows.replace_schema_metadata({FOOTER_KEY: said}), older)
    assert {verdict.path.parent.name: verdict.state for verdict in verify(store)} == {
        "recipe=older": "unverifiable",
        "recipe=wanda-50": "intact",
    }
    content = older.read_bytes()
    body = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    states = []
    for place in range(4, body, max(1, body // 60)):
        older.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        states.append(verify_file(older).state)
    # No page checksum covers the header of a page: the seal of the file does.
    assert states.count("changed") > 0.9 * len(states)
    older.write_bytes(content[:-30])
    assert [verdict.state for verdict in verify(store)] == ["changed", "intact"]


@pytest.mark.parametrize("reader", ["is_intact", "footer_of"])
def test_an_unreadable_file_is_reported_and_the_others_verified(store, monkeypatch, reader):
    first, second = write(store).path, put(store, TABLE, recipe="zzz").path
    real = getattr(verification, reader)

    def failing(file, *arguments):
        if os.path.samestat(os.fstat(file.fileno()), first.stat()):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(file, *arguments)

    monkeypatch.setattr(verification, reader, failing)
    told = {verdict.path: (verdict.state, verdict.reason) for verdict in verify(store)}
    assert told == {first: ("unreadable", "Input/output error"), second: ("intact", "")}


def test_a_file_removed_during_verification_is_skipped(store):
    first, second = write(store).path, put(store, TABLE, recipe="zzz").path
    verdicts = verify(store)
    assert next(verdicts).path == first
    second.unlink()
    assert list(verdicts) == []
