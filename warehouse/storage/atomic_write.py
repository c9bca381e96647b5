"""Atomic writes: a file appears whole or not at all, and errors of the system become messages with a fix.

On a disk: a temporary name in the same folder, fsync, rename, fsync of the folder. On an object store: a local file and
one upload, which the store shows when it is complete; the last writer wins, and a reader sees the old or the new
object. The parts of a killed upload are never visible; a lifecycle rule of the bucket removes them.
"""

import errno
import hashlib
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.location import Place, failures

PREFIX = ".prunescope-tmp-"
STALE_SECONDS = 3600.0

_FIXES = {
    errno.ENOSPC: "the disk is full: free some space or choose another place with --warehouse",
    errno.EDQUOT: "your disk quota is used up: free some space or choose another place with --warehouse",
    errno.EROFS: "the file system is read-only: choose another place with --warehouse",
    errno.EACCES: "no permission: make it writable or choose another place with --warehouse",
    errno.EPERM: "no permission: make it writable or choose another place with --warehouse",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another place with --warehouse",
    errno.EEXIST: "a file is in the place of a folder: choose another place with --warehouse",
    errno.EISDIR: "a folder is in the place of the file: choose another name",
    errno.ENOENT: "nothing can be made there: choose another place with --warehouse",
    errno.ENAMETOOLONG: "the path is too long: choose a shorter place with --warehouse",
    errno.EIO: "the disk failed: check it, then run again",
}


def write_atomically(path: Place, writer: Callable[[Path], object]) -> None:
    """Call `writer` on a temporary local file, then replace `path` with it in one step.

    Args:
        path: the final file; missing folders are made.
        writer: writes the file at the path that it gets, which does not exist and has the suffix of `path`.

    Raises:
        WarehouseError: the file cannot be written; `path` is unchanged.
    """
    if not isinstance(path, Path):
        with translate_os_errors(path), tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
            whole = Path(folder) / f"whole{path.suffix}"
            with translate_os_errors(whole):
                writer(whole)
            path.fs.put_file(str(whole), path.path)
        return
    # The name identifies the writing process, so that a later run can tell leftovers from work in progress.
    temporary = path.parent / f"{PREFIX}{_host()}-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}"
    with translate_os_errors(path):
        _make_folder(path.parent)
        try:
            writer(temporary)
            _sync(temporary)
            os.replace(temporary, path)  # noqa: PTH105 - the system call, as os.fsync is
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)


def temporaries(root: Place) -> Iterator[Path]:
    """Yield temporary files below `root` whose writer was killed or that are over an hour old; a store has none."""
    if not isinstance(root, Path):
        return
    for path in sorted(root.rglob(f"{PREFIX}*")):
        try:
            age = time.time() - path.stat().st_mtime
        except FileNotFoundError:  # its writer finished meanwhile
            continue
        if age > STALE_SECONDS or _writer_is_dead(path.name):
            yield path


def is_temporary(path: Place) -> bool:
    """Return whether the file is a temporary one of this package, in use or left over."""
    return path.name.startswith(PREFIX)


@contextmanager
def translate_os_errors(path: Place) -> Iterator[None]:
    """Turn an error of the system or the store about `path` into a WarehouseError with the fix."""
    try:
        yield
    except failures() as error:
        raise WarehouseError(f"{path} cannot be written; {_fix(path, error)}") from error


def _fix(path: Place, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or error
    if not isinstance(path, Path):
        return f"{reason}: check that the bucket exists, and the store's address and credentials in the environment"
    number = getattr(error, "errno", None)
    return _FIXES.get(number or 0, f"{reason}: check the disk and the path")


def _make_folder(folder: Path) -> None:
    """Make missing folders and sync their entries, which a power failure would lose otherwise."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _host() -> str:
    """Return a short name of this machine: a process id has no meaning on another machine that shares the disk."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _writer_is_dead(name: str) -> bool:
    host, _, process = name.removeprefix(PREFIX).partition("-")
    pid = process.partition("-")[0]
    if host != _host() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False
