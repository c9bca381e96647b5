"""Scratch folders that last as long as their process, and the removal of those whose process was killed."""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_PREFIX = "prunescope-layers-"


class Scratch:
    """A new folder among the temporary files (`TMPDIR`), locked until `discard` or the end of the process.

    Attributes:
        folder: its path.
    """

    def __init__(self) -> None:
        clean()
        while True:
            self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
            with suppress(FileNotFoundError):  # another process may remove the folder before it is locked
                self._descriptor = os.open(self.folder, os.O_RDONLY)
                if lock(self._descriptor) is not False and self.folder.exists():
                    return
                os.close(self._descriptor)

    def discard(self) -> None:
        """Remove the folder; call it only once."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._descriptor)


def clean(*, keep: bool = False) -> list[Path]:
    """Return the folders of killed processes, and remove them unless `keep` is set."""
    folders = sorted(Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"))
    return [folder for folder in folders if remove_dead(folder, keep=keep)]


def remove_dead(folder: Path, *, keep: bool = False) -> bool:
    """Remove a folder that a process had locked which has ended; with `keep` only say whether it is such a folder.

    A link and another user's folder cannot be opened and are no such folders.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        is_dead = lock(descriptor) is True
        if is_dead and not keep:
            shutil.rmtree(folder, ignore_errors=True)
        return is_dead
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> bool | None:
    """Lock a file or folder until this process closes it or ends.

    Returns:
        Whether this process now has the lock; None if the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
