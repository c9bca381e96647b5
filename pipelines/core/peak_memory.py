"""Measurement of the memory that a function call needs in addition to what is in use."""

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from prunescope.pipelines.core.hardware import proc_value


def growth_bytes(work: Callable[[], object], device: torch.device) -> int | None:
    """Call `work` and return its peak memory, less what was in use before.

    On a GPU this counts torch's allocations without its cache. On Linux it counts resident memory of this process:
    freed memory is first returned to the system, because reusing it would not show, and the high-water mark is reset.
    Call `work` once before: one-time allocations of libraries then do not count.

    Returns:
        None if the system does not report it.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with suppress(OSError, AttributeError):  # a C library without malloc_trim
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = _kilobytes("VmRSS")
    except (OSError, IndexError):  # another system, or a sandbox that forbids it
        work()
        return None
    work()
    return max(0, _kilobytes("VmHWM") - before) * 1024


def _kilobytes(key: str) -> int:
    return int(proc_value(Path("/proc/self/status"), key).split()[0])
