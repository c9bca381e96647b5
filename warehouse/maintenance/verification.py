"""Verification that table files are as written: every byte against its seal."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Literal

import pyarrow.parquet as pq

from prunescope.warehouse.core.errors import DamagedFileError
from prunescope.warehouse.storage.file_checksum import ALTERED, is_intact
from prunescope.warehouse.storage.location import Place, failures, read_from
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import BROKEN, REPAIR, footer_of
from prunescope.warehouse.tables import TABLES

State = Literal["intact", "changed", "unverifiable", "unreadable"]


@dataclass(frozen=True)
class VerificationResult:
    """State of one file.

    Attributes:
        state: unverifiable if the file was written before hashes existed and all its pages can be read, unreadable if
            the system or the store denies access.
        reason: the problem in words; empty without one.
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
    """Compare a partition's bytes with its seal, and its names with its path.

    Raises:
        FileNotFoundError: there is no such file.
    """
    size = 0
    try:
        size = int(path.stat().st_size)
        state, reason = read_from(path, lambda opened: _compared(opened, path))
    except FileNotFoundError:
        raise
    except (DamagedFileError, *BROKEN) as error:
        state, reason = "changed", str(error).removeprefix(f"{path} is damaged (").removesuffix(f"); {REPAIR}")
    except failures() as error:
        # An OSError without a number is Arrow's about damaged bytes, or says that there is a link or a FIFO.
        state = "changed" if type(error) is OSError and error.errno is None else "unreadable"
        reason = str(getattr(error, "strerror", None) or error)
    return VerificationResult(path, state, reason.partition("\n")[0], size)


def _compared(opened: BinaryIO, path: Place) -> tuple[State, str]:
    seal, footer = is_intact(opened), footer_of(opened, path)
    if seal:
        return "intact", ""
    if seal is False or footer.content_hash is not None:  # the seal itself may be damaged
        return "changed", ALTERED
    with pq.ParquetFile(opened, page_checksum_verification=True) as parquet:
        for _ in parquet.iter_batches():
            pass
    return "unverifiable", "written before there were hashes; all its pages can be read"
