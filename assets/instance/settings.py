"""Settings of this machine: warehouse, cache, Ray and screen.

Environment variables of the product are read here only, except those that `warehouse.core.cache` and `api` read.
"""

import os
import re
import sys

from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.core.cache import cache_folder  # noqa: F401 - re-exported with the other settings
from prunescope.warehouse.core.program import PACKAGE

DEFAULT_WAREHOUSE = "warehouse/data"
# Variables that another machine needs to reach the warehouse and the hub.
_CARRIED = re.compile(r"AWS_.+|AZURE_STORAGE_.+|HF_TOKEN|HF_ENDPOINT")


def warehouse_root(chosen: str | None = None) -> str:
    """Return the warehouse: the chosen one, else PRUNESCOPE_WAREHOUSE, else `warehouse/data` in the working folder."""
    if chosen is not None and not chosen.strip():
        raise InputError("--warehouse '': names no folder; leave the option out for the default")
    return os.path.expanduser(chosen or os.environ.get("PRUNESCOPE_WAREHOUSE") or DEFAULT_WAREHOUSE)  # noqa: PTH111


def has_screen() -> bool:
    """Return whether a browser can open a window here."""
    return sys.platform in {"win32", "darwin"} or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def watch_seconds() -> int:
    """Return the seconds between checks of the watch list and the watched folder: PRUNESCOPE_WATCH_SECONDS, else 30.

    A model copied into the folder counts as complete when it has not changed for as long.
    """
    chosen = os.environ.get("PRUNESCOPE_WATCH_SECONDS", "30")
    if not chosen.isdecimal() or not 1 <= int(chosen) <= 86_400:
        raise InputError(f"PRUNESCOPE_WATCH_SECONDS={chosen!r}: give whole seconds from 1 to 86400")
    return int(chosen)


def ray_address() -> str | None:
    """Return RAY_ADDRESS, the Ray cluster for runs of the UI and the daemon; Ray's own programs read it too."""
    return os.environ.get("RAY_ADDRESS") or None


def hosts() -> frozenset[str]:
    """Return additional host names of the interface, from the comma-separated PRUNESCOPE_HOSTS."""
    names = os.environ.get("PRUNESCOPE_HOSTS", "").lower().split(",")
    return frozenset(name.strip() for name in names) - {""}


def let_waiting_threads_sleep() -> None:
    """Shorten the time that OpenMP's idle threads spin, unless the user has set it; call it before torch loads.

    GNU OpenMP's default is some milliseconds of full load after every operation, which doubles the processor time of
    decoding and slows down other processes. Operations that follow within a tenth of a millisecond, as in a forward
    pass, still find the threads awake.
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = "2000"


def carried_environment() -> dict[str, str]:
    """Return the variables that a worker on another machine needs for the warehouse and the hub, secrets included."""
    return {name: value for name, value in os.environ.items() if _CARRIED.fullmatch(name)}


def python_path() -> str:
    """Return the PYTHONPATH with which another process imports the same `prunescope`, installed or not."""
    return os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
