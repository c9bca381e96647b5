"""Scratch folders that last as long as their process, and the removal of those whose process was killed."""

import fcntl
import glob
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_LAYERS = "prunescope-layers-"


class Scratch:
    """A new folder that is locked until `discard` or the end of the process.

    Args:
        prefix: beginning of its name; folders of this name whose process was killed are removed.
        parent: the folder that holds it; None is that of temporary files (`TMPDIR`).

    Attributes:
        folder: its path.
    """

    def __init__(self, prefix: str = _LAYERS, parent: Path | None = None) -> None:
        clean(prefix, parent)
        while True:
            self.folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            with suppress(FileNotFoundError):  # another process may remove the folder before it is locked
                self._descriptor = os.open(self.folder, os.O_RDONLY)
                if lock(self._descriptor) is not False and self.folder.exists():
                    return
                os.close(self._descriptor)

    def discard(self) -> None:
        """Remove the folder; call it only once."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._descriptor)


def clean(prefix: str = _LAYERS, parent: Path | None = None) -> None:
    """Remove the folders of killed processes; arguments as in `Scratch`.

    A link and another user's folder cannot be opened and stay.
    """
    ending = "[a-z0-9_]" * 8  # tempfile's; so the pattern never matches a folder with a longer prefix
    for folder in Path(parent or tempfile.gettempdir()).glob(glob.escape(prefix) + ending):
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            if lock(descriptor):
                shutil.rmtree(folder, ignore_errors=True)
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
