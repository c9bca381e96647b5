"""A check of a model's files before any is opened: reading a pipe or a device may never end."""

import stat
from pathlib import Path

from prunescope.pipelines.core.errors import InputError


def require_regular_files(model: Path) -> None:
    """Refuse a model file, or a folder directly in which something lies that is neither a file nor a folder.

    Raises:
        InputError: names it.
        OSError: it cannot be looked at, as a link that leads nowhere.
    """
    for file in sorted(model.iterdir()) if model.is_dir() else [model]:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise InputError(f"{file}: a pipe, socket or device, not a file of a model; remove it")
