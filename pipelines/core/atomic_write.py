"""Atomic writes on a local disk: a file appears whole or not at all, also after a kill or a power failure."""

import hashlib
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

PREFIX = ".prunescope-tmp-"


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a temporary file in the same folder, then put it in place of `path` in one step.

    The temporary file does not exist before, and has the suffix of `path`. Missing folders are made.

    Raises:
        OSError: it cannot be written; `path` is unchanged.
    """
    # The name identifies the writing process, so that a later run can tell leftovers from work in progress.
    temporary = path.parent / f"{PREFIX}{host()}-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}"
    missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):  # a power failure would lose the entries of new folders otherwise
        sync(folder.parent)
    try:
        write(temporary)
        sync(temporary)
        os.replace(temporary, path)  # noqa: PTH105 - the system call, as os.fsync is
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Let a file or a folder reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def host() -> str:
    """Return a short name of this machine: a process id has no meaning on another machine that shares the disk."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
