"""The device that a study computes on, its free memory, and the memory that a function call needs on it."""

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from prunescope.pipelines.core.hardware import proc_value


def resolve_device(device: str) -> str:
    """Return the device of a study's setting, a GPU with its number: for `auto` the first GPU, or else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda:0" if device == "cuda" else device


def available_bytes(device: str) -> int | None:
    """Return the free memory of a GPU, or that of the system within the limit of this process's cgroup.

    None if neither Linux nor CUDA reports it.
    """
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    available = proc_value(Path("/proc/meminfo"), "MemAvailable")
    if not available:
        return None
    free = [int(available.split()[0]) * 1024]
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError, KeyError):  # no such group, or one without a limit (`max`)
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        counts = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        # The kernel frees the cache of read files when memory is needed.
        free.append(limit - used + int(counts["inactive_file"]))
    return min(free)


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
