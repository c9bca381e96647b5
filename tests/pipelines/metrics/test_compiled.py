"""What numba compiled in this process and what another process reads from its cache are the same code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = """
import hashlib, torch
from pipelines.metrics.divergence import divergence
from pipelines.metrics.heads import Head
torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)
weight, x, dx = (torch.randn(n, 64, generator=draw) for n in (300, 600, 600))
for name, column in divergence(x / 8, dx / 160, Head(weight), [0.7, 1.0]).items():
    print(name, hashlib.sha256(column.tobytes()).hexdigest())
"""


@pytest.mark.exhaustive  # two processes that compile all kernels
def test_the_first_process_measures_bit_for_bit_what_later_ones_do(tmp_path: Path) -> None:
    """A fresh installation compiles, every later run reads the cache; their tables are compared by hash."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3])}
    first, second = (
        subprocess.run([sys.executable, "-c", MEASURE], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    )
    assert list(tmp_path.rglob("*shift_rows*.nbc"))
    assert first.stdout == second.stdout != ""
