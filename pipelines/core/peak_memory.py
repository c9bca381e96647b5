"""How much memory a piece of work takes beyond what was in use before it.

What the work is belongs to the caller.
"""

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def growth_bytes(work: Callable[[], object], device: torch.device) -> int | None:
    """The most bytes that some work held at once beyond what was held when it began.

    On a GPU what torch has allocated, its cache left out. On Linux resident memory of this process, whose high-water
    mark is set back first; memory that was freed earlier goes back to the system before, because work that is given it
    again would seem to need none. Work that ran once before does not count what libraries set up at first.

    Returns:
        None where the system does not tell.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with suppress(OSError, AttributeError):  # a C library without it keeps what it has
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _RESET.write_text("5", encoding="ascii")
        before = _kilobytes("VmRSS")
    except (OSError, KeyError):  # another system, or a sandbox that forbids it
        work()
        return None
    work()
    return max(0, _kilobytes("VmHWM") - before) * 1024


def _kilobytes(key: str) -> int:
    told = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii").splitlines())
    return int(told[key].split()[0])
