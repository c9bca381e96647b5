"""A process beside a first run that compiles modules and the measure's kernels while the model is converted.

With kernels on the disk that are newer than their code nothing is started.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prunescope.assets import settings

_FOLDER = Path(__file__).parents[2] / "pipelines" / "metrics"


@contextmanager
def compiling_beside() -> Iterator[None]:
    """Start the process where kernels are missing, and end it with the block if it still runs."""
    if not _is_missing():
        yield
        return
    # What lies in the working folder is no module of ours.
    command = [sys.executable, "-P", "-m", "prunescope.assets.runs.precompile"]
    silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": settings.python_path()}, **silent)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _is_missing() -> bool:
    """Tell whether numba would keep kernels beside their code and has none newer than it."""
    if os.environ.get("NUMBA_CACHE_DIR") or not os.access(_FOLDER, os.W_OK):
        return False
    changed = (_FOLDER / "fused_kernels.py").stat().st_mtime
    return all(made.stat().st_mtime < changed for made in _FOLDER.glob("__pycache__/fused_kernels.shift_rows*.nbi"))


def main() -> None:
    """Import the modules and run the kernels that a run needs later, so that their compiled code is cached."""
    from prunescope.assets.execution.signals import end_with_parent
    from prunescope.pipelines.metrics.logit_blocks import run_kernels
    from prunescope.pipelines.models import load  # noqa: F401

    end_with_parent()
    run_kernels()
    from prunescope.pipelines.evaluation.tasks import score  # noqa: F401
    from prunescope.pipelines.reporting.charts import files  # noqa: F401


if __name__ == "__main__":
    main()
