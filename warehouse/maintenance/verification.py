"""Verification that table files are as written: every byte against its seal, the rows against their hash."""

import io
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import pyarrow.parquet as pq

from prunescope.warehouse.core.errors import DamagedFileError, WarehouseError
from prunescope.warehouse.storage.file_checksum import is_intact
from prunescope.warehouse.storage.location import Place, failures
from prunescope.warehouse.storage.partition_store import PART, Store
from prunescope.warehouse.storage.provenance import BROKEN, Footer, read_footer
from prunescope.warehouse.storage.row_hash import KIND, RowsHash
from prunescope.warehouse.tables import TABLES

State = Literal["intact", "changed", "unverifiable", "unreadable"]


@dataclass(frozen=True)
class VerificationResult:
    """State of one file.

    Attributes:
        path: the file.
        state: unverifiable where the file was written before hashes existed and all its pages can be read, unreadable
            where the system or the store denies access.
        reason: the problem in words; empty without one.
        bytes: its size.
    """

    path: Place
    state: State
    reason: str
    bytes: int


def verify(store: Store) -> Iterator[VerificationResult]:
    """Verify every file of every table; continue after unreadable ones.

    Raises:
        WarehouseError: the warehouse cannot be listed.
    """
    for table in TABLES.values():
        for path in store.files(table.name):
            if path.name == PART:
                with suppress(FileNotFoundError):  # removed since it was listed
                    yield verify_file(path)


def verify_file(path: Place) -> VerificationResult:
    """Compare a partition's bytes with its seal, and its provenance and rows with their hashes.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if isinstance(path, Path):
        return _verdict(path, path)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / PART
        try:
            path.fs.get_file(path.path, str(copy))
        except FileNotFoundError:
            raise
        except failures() as error:
            return VerificationResult(path, "unreadable", _reason(error), 0)
        return _verdict(copy, path)


def _verdict(file: Path, path: Place) -> VerificationResult:
    size = 0
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, io.SEEK_END)
            reason = _difference(opened, file)
    except FileNotFoundError:
        raise
    except (OSError, WarehouseError) as error:
        is_damage = isinstance(error, OSError) and error.errno is None  # so Arrow reports damaged bytes
        return VerificationResult(path, "changed" if is_damage else "unreadable", _reason(error), size)
    if reason is None:
        reason = "written before there were hashes; all its pages can be read"
        return VerificationResult(path, "unverifiable", reason, size)
    return VerificationResult(path, "changed" if reason else "intact", reason, size)


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    return str(getattr(cause, "strerror", None) or cause).partition("\n")[0]


def _difference(opened: BinaryIO, file: Path) -> str | None:
    """Return how the file differs from its footer; empty for no difference, None for a footer without hashes."""
    seal = is_intact(opened)
    try:
        footer = read_footer(file)
        if seal is None and footer.content_hash is None:
            _read_whole(file)
            return None
        difference = _rows_difference(file, footer)
    except (DamagedFileError, *BROKEN) as error:
        return str(error).removeprefix(f"{file} ").partition("\n")[0]
    if difference:
        return difference
    if footer.provenance_hash != footer.provenance.hash:
        return "its provenance is not the one that it was written with"
    return "" if seal else "its rows are intact, but another byte is not as it was written"


def _read_whole(file: Path) -> None:
    """Decode every page, and compare it with its checksum where it has one."""
    with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
        for _ in parquet.iter_batches():
            pass


def _rows_difference(file: Path, footer: Footer) -> str:
    kind = (footer.content_hash or "").partition(":")[0]
    if kind != KIND:
        return f"the hash of its rows is of a kind that is not known here ({kind!r})"
    with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
        digest = RowsHash(parquet.schema_arrow)
        for batch in parquet.iter_batches():
            digest.update(batch)
    return "" if digest.hexdigest() == footer.content_hash else "its rows are not those that it was written with"
