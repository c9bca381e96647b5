"""Equality of freshly compiled kernels and those that another process reads from numba's cache."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prunescope.pipelines.metrics import fused_kernels
from prunescope.pipelines.metrics.divergence import divergence
from prunescope.pipelines.metrics.logit_blocks import precise_product
from prunescope.pipelines.metrics.output_head import OutputHead

MEASURE = """
import hashlib, torch
from prunescope.pipelines.metrics.divergence import divergence
from prunescope.pipelines.metrics.output_head import OutputHead
torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)
weight, x, dx = (torch.randn(n, 64, generator=draw) for n in (300, 600, 600))
for name, column in divergence(x / 8, dx / 160, OutputHead(weight), [0.7, 1.0]).items():
    print(name, hashlib.sha256(column.tobytes()).hexdigest())
"""


@pytest.mark.exhaustive  # compiles all kernels; every other test measures with those of numba's cache
def test_compiling_and_cached_processes_measure_the_same_bits(tmp_path: Path) -> None:
    """Compare by hash the tables of a process that compiles with those of one that reads the cache."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3] / ".src")}
    first, second = (
        subprocess.run([sys.executable, "-c", MEASURE], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    )
    assert list(tmp_path.rglob("*shift_rows*.nbc"))
    assert first.stdout == second.stdout != ""


def test_kernels_are_compiled_once_for_any_sizes_and_heads() -> None:
    head = OutputHead(torch.eye(2, 16))
    divergence(torch.ones(1, 16), torch.ones(1, 16), head, [1.0])
    precise_product(torch.ones(1, 16), head.weight)
    weight, x, dx = torch.randn(300, 64), torch.randn(5, 64), torch.randn(5, 64)
    divergence(x, dx, OutputHead(weight, bias=torch.randn(300)), [0.7, 1.0])
    precise_product(x, weight)
    kernels = (fused_kernels.gaps, fused_kernels.dense_rows, fused_kernels.shift_rows, fused_kernels.precise_product)
    assert [len(kernel.signatures) for kernel in kernels] == [1, 1, 1, 1]
