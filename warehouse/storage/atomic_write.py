"""Atomic writes on a disk or an object store; system errors become messages with a fix.

An object store shows an upload only when it is complete: the last writer wins, and a reader sees the old or the new
object. The parts of a killed upload are never visible; a lifecycle rule of the bucket removes them.
"""

import errno
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prunescope.pipelines.core.atomic_write import PREFIX, host, replace_file
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.location import Place, failures

STALE_SECONDS = 3600.0

_FIXES = {
    errno.ENOSPC: "the disk is full: free some space or choose another place with --warehouse",
    errno.EDQUOT: "your disk quota is used up: free some space or choose another place with --warehouse",
    errno.EROFS: "the file system is read-only: choose another place with --warehouse",
    errno.EACCES: "no permission: make it writable or choose another place with --warehouse",
    errno.EPERM: "no permission: make it writable or choose another place with --warehouse",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another place with --warehouse",
    errno.EEXIST: "a file is where a folder must be: choose another place with --warehouse",
    errno.EISDIR: "a folder is where the file must be: move it away, or choose another name",
    errno.ENOENT: "no file can be created there: choose another place with --warehouse",
    errno.ENAMETOOLONG: "the path is too long: choose a shorter place with --warehouse",
    errno.EIO: "the disk failed: check it, then run again",
}


def write_atomically(path: Place, writer: Callable[[Path], object]) -> None:
    """Call `writer` with the path of a temporary local file, then replace `path` by that file in one step.

    The temporary file does not exist yet, and has the suffix of `path`. Missing folders are made.

    Raises:
        WarehouseError: the file cannot be written; `path` is unchanged.
    """
    with translate_os_errors(path):
        if isinstance(path, Path):
            replace_file(path, writer)
            return
        with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
            local = Path(folder) / f"whole{path.suffix}"
            with translate_os_errors(local):
                writer(local)
            path.fs.put_file(str(local), path.path)


def temporaries(root: Place) -> Iterator[Path]:
    """Yield temporary files below `root` that are over an hour old or whose writer was killed; a store has none."""
    if not isinstance(root, Path):
        return
    for path in sorted(root.rglob(f"{PREFIX}*")):
        try:
            age = time.time() - path.stat().st_mtime
        except FileNotFoundError:  # its writer finished meanwhile
            continue
        if age > STALE_SECONDS or _writer_is_dead(path.name):
            yield path


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


def _writer_is_dead(name: str) -> bool:
    machine, _, process = name.removeprefix(PREFIX).partition("-")
    pid = process.partition("-")[0]
    if machine != host() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, PermissionError, OverflowError) as error:
        return isinstance(error, ProcessLookupError)
    return False
