"""A description of this machine, because times measured on different machines do not compare. No torch here."""

import os
import platform
from functools import cache
from pathlib import Path


@cache
def hardware() -> str:
    """Return the processor, the number of its cores that this process may use, and the NVIDIA cards."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cards = sorted(proc_value(file, "Model") for file in Path("/proc/driver/nvidia/gpus").glob("*/information"))
    processor = proc_value(Path("/proc/cpuinfo"), "model name") or platform.machine()
    return "; ".join([f"{processor}, {cores} cores", *cards])


def proc_value(file: Path, key: str) -> str:
    """Return the first value of a key in a file of `key: value` lines; empty without such a file or line."""
    if not file.is_file():
        return ""
    pairs = (line.partition(":") for line in file.read_text(errors="replace").splitlines())
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")
