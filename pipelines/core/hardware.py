"""What this machine is, in words: times that were measured on another one do not compare. No torch here.

How fast it is, is measured in `machine.py`.
"""

import os
import platform
from functools import cache
from pathlib import Path

_CARDS = Path("/proc/driver/nvidia/gpus")
_PROCESSOR = Path("/proc/cpuinfo")


@cache
def hardware() -> str:
    """Processor, the cores of it that this process may use, and graphics cards where their driver names them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cards = sorted(_said(file, "Model") for file in _CARDS.glob("*/information"))
    return "; ".join([f"{_said(_PROCESSOR, 'model name') or platform.machine()}, {cores} cores", *cards])


@cache
def vendor() -> str:
    """Read the processor's maker as it names itself; empty where the system does not say."""
    return _said(_PROCESSOR, "vendor_id")


def _said(file: Path, key: str) -> str:
    """What a file of `key: value` lines says first; empty where there is no such file or line."""
    if not file.is_file():
        return ""
    pairs = (line.partition(":") for line in file.read_text(errors="replace").splitlines())
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")
