"""Folders for what may lie on disk only while this process lives, and the end of those whose process was killed.

What is kept, such as variants and checkpoints, lies elsewhere.
"""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_PREFIX = "prunescope-layers-"


class Scratch:
    """A new folder in the folder for temporary files (`TMPDIR`), locked until `discard` or the process's end.

    Attributes:
        folder: its place.
    """

    def __init__(self) -> None:
        clean()
        while True:
            self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
            with suppress(FileNotFoundError):  # another process that cleans at this very moment had it first
                self._descriptor = os.open(self.folder, os.O_RDONLY)
                if lock(self._descriptor) is not False and self.folder.exists():
                    return
                os.close(self._descriptor)

    def discard(self) -> None:
        """Removes the folder; only once."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._descriptor)


def clean() -> None:
    """Removes the folders that killed processes have left; nobody can say of which model they are."""
    for folder in _folders():
        remove_dead(folder)


def left() -> list[Path]:
    """The folders that `clean` would remove."""
    return [folder for folder in _folders() if _is_dead(folder)]


def _folders() -> list[Path]:
    return sorted(Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"))


def _is_dead(folder: Path) -> bool:
    """Whether its process has ended; not of another user's folder, which cannot be opened, nor of a link."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return lock(descriptor) is True
    finally:
        os.close(descriptor)


def remove_dead(folder: Path) -> None:
    """Removes a folder that its process locked, unless that process lives."""
    with suppress(OSError):  # of another user, or gone meanwhile
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if lock(descriptor):
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


def lock(descriptor: int) -> bool | None:
    """Whether this process has the file or folder, until it closes it or dies; None where the system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
