"""What a first run compiles, compiled by a process beside it while the model is converted: Python modules and kernels.

With kernels of this version on the disk nothing is started.
"""

import importlib
import subprocess
import sys
from pathlib import Path

from pipelines import metrics

# In the order in which a run comes to them.
_MODULES = ("assets.definitions", "pipelines.models.load", "pipelines.tasks.score", "pipelines.charts.files")


def compile_beside() -> None:
    """Starts the process, which ends by itself, where kernels are missing or older than their code."""
    code = Path(metrics.__path__[0], "fused.py")
    changed = code.stat().st_mtime
    if any(made.stat().st_mtime > changed for made in code.parent.glob("__pycache__/fused.shift_rows*.nbi")):
        return
    silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen([sys.executable, "-m", "assets.precompile"], **silent)


def main() -> None:
    """Imports modules and runs every kernel once; what they compile stays beside their code."""
    from assets.interrupts import end_with_parent
    from pipelines.metrics.blocks import run_kernels

    end_with_parent()
    importlib.import_module(_MODULES[0])
    run_kernels()
    for name in _MODULES[1:]:
        importlib.import_module(name)


if __name__ == "__main__":
    main()
