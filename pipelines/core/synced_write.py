"""Writes of files that a killed process must not leave half written, for work in progress on a local disk.

Files of the warehouse are written by `prunescope.warehouse.storage.atomic_write`.
"""

import os
from collections.abc import Callable
from pathlib import Path


def write_synced(file: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a temporary file, then put it in place of `file` in one step; the folder is made if missing.

    Raises:
        OSError: it cannot be written; `file` is unchanged.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    write(temporary)
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
