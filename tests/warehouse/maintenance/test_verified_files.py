"""The memory of files that were found intact."""

import os
import warnings
from pathlib import Path

import pytest

from prunescope.warehouse.maintenance import verified_files
from prunescope.warehouse.maintenance.verified_files import VerifiedFiles
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.warehouse.conftest import put

TABLE = TABLES["generations"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A partition."""
    return Path(put(Store(tmp_path / "warehouse"), TABLE).path)


def is_damaged(file: Path, tmp_path: Path) -> bool:
    with warnings.catch_warnings(record=True) as told, VerifiedFiles(file.parents[3], tmp_path / "cache") as files:
        warnings.simplefilter("always")
        found = files.is_damaged(file)
    assert [str(file) in str(warning.message) for warning in told] == [True] * found
    return found


def test_every_altered_byte_is_found(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    for place in range(0, len(content), 97):
        altered = bytearray(content)
        altered[place] ^= 4
        file.write_bytes(altered)
        assert is_damaged(file, tmp_path), place
    file.write_bytes(content)
    assert not is_damaged(file, tmp_path)


def test_an_intact_file_is_read_again_only_after_it_has_changed(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_damaged(file, tmp_path)
    read: list[object] = []
    real = verified_files.verify_file
    monkeypatch.setattr(verified_files, "verify_file", lambda path: read.append(path) or real(path))
    assert not is_damaged(file, tmp_path)
    assert not read
    os.utime(file, ns=(0, 0))
    assert not is_damaged(file, tmp_path)
    assert len(read) == 1


def test_a_damaged_file_is_not_remembered_as_intact(file: Path, tmp_path: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)
    assert is_damaged(file, tmp_path)
    assert is_damaged(file, tmp_path)


def test_a_cache_that_cannot_be_read_or_written_only_costs_time(file: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert not is_damaged(file, tmp_path)
    (tmp_path / "cache").unlink()
    assert not is_damaged(file, tmp_path)
    [memory] = (tmp_path / "cache" / "verified").iterdir()
    for content in ("{", "[1]", '{"a": 1}'):
        memory.write_text(content)
        assert not is_damaged(file, tmp_path)
