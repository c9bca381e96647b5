"""What this machine says: where the warehouse and the cache of converted models lie, its screen, its memory.

The only module that reads environment variables for the product, but for where warehouse and cache lie without it.
"""

import math
import os
import re
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.core.cache import cache_folder  # noqa: F401 - the warehouse keeps something there, too

DEFAULT_WAREHOUSE = "warehouse/data"
# Variables without which another machine reaches neither the warehouse nor the hub.
_CARRIED = re.compile(r"AWS_.+|AZURE_STORAGE_.+|HF_TOKEN|HF_ENDPOINT")


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


def watch_seconds() -> int:
    """How often the watch list and the watched folder are looked at: PRUNESCOPE_WATCH_SECONDS, else 30.

    A model that was copied into the folder counts as whole when it has not changed for as long.
    """
    chosen = os.environ.get("PRUNESCOPE_WATCH_SECONDS", "30")
    if not chosen.isdecimal() or not 1 <= int(chosen) <= 86_400:
        raise InputError(f"PRUNESCOPE_WATCH_SECONDS={chosen!r}: give whole seconds from 1 to 86400")
    return int(chosen)


def ray_address() -> str | None:
    """The Ray cluster that runs of the UI and the daemon use: RAY_ADDRESS, which Ray's own programs read too."""
    return os.environ.get("RAY_ADDRESS") or None


def hosts() -> frozenset[str]:
    """Names under which the interface is reached besides those of this machine: PRUNESCOPE_HOSTS, with commas."""
    names = os.environ.get("PRUNESCOPE_HOSTS", "").lower().split(",")
    return frozenset(name.strip() for name in names) - {""}


def worker_idle_seconds() -> float:
    """How long a worker keeps its model when nobody asks: PRUNESCOPE_WORKER_IDLE seconds, else five minutes."""
    chosen = os.environ.get("PRUNESCOPE_WORKER_IDLE", "300")
    try:
        seconds = float(chosen)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InputError(f"PRUNESCOPE_WORKER_IDLE={chosen}: give a number of seconds over 0")
    return seconds


def sockets_folder() -> Path:
    """Where sockets of workers lie: a folder of this user alone. The name of a socket has at most about 100 bytes.

    Raises:
        InputError: somebody else has made the folder.
    """
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    name = f"prunescope-{os.getuid()}"
    if len(os.fsencode(base / name)) > 60 or not os.access(base, os.W_OK):
        base = Path("/tmp")  # noqa: S108 - the folder in it is checked
    folder = base / name
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise InputError(f"{folder}: must be a folder that only you can open; remove it, or set XDG_RUNTIME_DIR")
    return folder


def let_waiting_threads_sleep() -> None:
    """Set how long OpenMP's threads spin for the next piece of work, unless the user did; call it before torch loads.

    GNU's default is some milliseconds of full load after every operation: as much processor time again as the work of a
    model that decodes, and where other processes want the processors, most of the time. What follows within a tenth of
    a millisecond, as the next operation of a pass does, still finds them awake.
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = "2000"


def carried_environment() -> dict[str, str]:
    """The variables that a worker on another machine needs to reach the warehouse and the hub, secrets among them."""
    return {name: value for name, value in os.environ.items() if _CARRIED.fullmatch(name)}


def package_parent() -> Path:
    """Return the folder from which this process imports `prunescope`, for the PYTHONPATH of another one."""
    return Path(str(sys.modules["prunescope"].__file__)).parents[1]
