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
    sync(temporary)
    temporary.replace(file)
    sync(file.parent)


def sync(path: Path) -> None:
    """Let a file or a folder reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
