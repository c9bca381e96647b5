"""What this machine says: where the warehouse and the cache of converted models lie, its screen, its memory.

The only module that reads environment variables for the product; no I/O.
"""

import math
import os
import sys
from pathlib import Path

import platformdirs

from pipelines.errors import InputError

DEFAULT_WAREHOUSE = "warehouse/data"


def warehouse_root(chosen: str | None = None) -> str:
    """The warehouse: what was chosen, else PRUNESCOPE_WAREHOUSE, else `warehouse/data` below the working folder."""
    if chosen is not None and not chosen.strip():
        raise InputError("--warehouse '': names no folder; leave the option out for the default")
    return os.path.expanduser(chosen or os.environ.get("PRUNESCOPE_WAREHOUSE") or DEFAULT_WAREHOUSE)  # noqa: PTH111


def has_screen() -> bool:
    """Whether a browser can open a window here."""
    return sys.platform in {"win32", "darwin"} or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def memory_gibibytes() -> float:
    """The machine's memory in GiB; infinite where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, ValueError, OSError):
        return math.inf


def cache_folder() -> Path:
    """Where fetched and converted models are kept: PRUNESCOPE_CACHE, else the user's cache folder."""
    chosen = os.environ.get("PRUNESCOPE_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("prunescope"))
