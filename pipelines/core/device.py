"""The device that a study computes on, and its free memory."""

from contextlib import suppress
from pathlib import Path

import psutil
import torch


def resolve_device(device: str) -> str:
    """Return the device of a study's setting, a GPU with its number: for `auto` the first GPU, or else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda:0" if device == "cuda" else device


def available_bytes(device: str) -> int:
    """Return the free memory of a GPU, or that of the system within the limit of this process's cgroup."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    free = [int(psutil.virtual_memory().available)]
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError, KeyError):  # no such group, or one without a limit (`max`)
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        counts = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        # The kernel frees the cache of read files when memory is needed.
        free.append(limit - used + int(counts["inactive_file"]))
    return min(free)
