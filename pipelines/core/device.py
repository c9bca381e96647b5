"""The device that a study computes on, its free memory, and how many sublayers it measures at once."""

from contextlib import suppress
from pathlib import Path

import torch


def workers_on(device: str) -> int:
    """How many sublayers are measured at once: one a core, one on a GPU."""
    return 1 if device.startswith("cuda") else torch.get_num_threads()


def chosen_device(device: str) -> str:
    """The device that a study's setting means here."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def available_bytes(device: str) -> int | None:
    """Memory that a new computation may fill: of the GPU, else what the system says and this process's group allows.

    None where neither Linux nor CUDA tells.
    """
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        told = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        free = [int(told["MemAvailable"].split()[0]) * 1024]
    except (OSError, KeyError, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError, KeyError):  # no such group, or one without a limit (`max`)
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        counts = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        # Files that were read are counted until somebody needs their room.
        free.append(limit - used + int(counts["inactive_file"]))
    return min(free)
