"""Verification that table files are as written: every byte against its seal, the rows against their hash."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Literal

import pyarrow.parquet as pq

from prunescope.warehouse.core.errors import DamagedFileError
from prunescope.warehouse.storage.file_checksum import ALTERED, is_intact
from prunescope.warehouse.storage.location import Place, failures, read_from
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import BROKEN, REPAIR, Footer, footer_of
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
    """Verify every partition of every table; continue after unreadable ones.

    Raises:
        WarehouseError: the warehouse cannot be listed.
    """
    for table in TABLES.values():
        for partition in store.partitions(table):
            with suppress(FileNotFoundError):  # removed since it was listed
                yield verify_file(partition.path)


def verify_file(path: Place) -> VerificationResult:
    """Compare a partition's bytes with its seal, its names with its path, and its provenance and rows with hashes.

    Raises:
        FileNotFoundError: there is no such file.
    """
    size = 0
    try:
        size = int(path.stat().st_size)
        reason = read_from(path, lambda opened: _difference(opened, path))
    except FileNotFoundError:
        raise
    except failures() as error:
        # An OSError without a number is Arrow's about damaged bytes, or says that there is a link or a FIFO.
        state: State = "changed" if type(error) is OSError and error.errno is None else "unreadable"
        return VerificationResult(path, state, str(getattr(error, "strerror", None) or error).partition("\n")[0], size)
    if reason is None:
        reason = "written before there were hashes; all its pages can be read"
        return VerificationResult(path, "unverifiable", reason, size)
    return VerificationResult(path, "changed" if reason else "intact", reason, size)


def _difference(opened: BinaryIO, path: Place) -> str | None:
    """Return how the file differs from its footer; empty for no difference, None for a footer without hashes."""
    seal = is_intact(opened)
    try:
        footer = footer_of(opened, path)
        if seal is None and footer.content_hash is None:
            _read_whole(opened)
            return None
        difference = _rows_difference(opened, footer)
    except (DamagedFileError, *BROKEN) as error:
        reason = str(error).removeprefix(f"{path} is damaged (").removesuffix(f"); {REPAIR}")
        return reason.partition("\n")[0]
    if difference:
        return difference
    if footer.provenance_hash != footer.provenance.hash:
        return "its provenance is not the one that it was written with"
    return "" if seal else f"its rows are intact, but {ALTERED}"


def _read_whole(file: BinaryIO) -> None:
    """Decode every page, and compare it with its checksum where it has one."""
    with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
        for _ in parquet.iter_batches():
            pass


def _rows_difference(file: BinaryIO, footer: Footer) -> str:
    kind = (footer.content_hash or "").partition(":")[0]
    if kind != KIND:
        return f"the hash of its rows is of a kind that is not known here ({kind!r})"
    with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
        digest = RowsHash(parquet.schema_arrow)
        for batch in parquet.iter_batches():
            digest.update(batch)
    return "" if digest.hexdigest() == footer.content_hash else "its rows are not those that it was written with"
