"""Measurement of this machine's speed at the products of a study, within a fraction of a second."""

import math
import time

import torch

from prunescope.pipelines.metrics.cpu_matmul import product
from prunescope.pipelines.metrics.logit_blocks import BLOCK_ROWS
from prunescope.pipelines.models.meta_model import Shape
from prunescope.pipelines.planning.workload import Machine

# Numbers of a measured matrix: far more than a core's cache holds, yet quick to fill.
_SIZE = 2**24
# The fastest of so many products counts, because other processes slow the rest, and the first one starts threads.
_CALLS = 5


@torch.inference_mode()
def measure_machine(shape: Shape, dtype: torch.dtype, device: str, tokens: int) -> Machine:
    """Measure the speeds of this machine.

    The layers are in `dtype`; a typical prompt with its answer has so many `tokens`. Larger matrices are cut to `_SIZE`
    numbers.
    """

    def speed(rows: int, outputs: int, inputs: int, of: torch.dtype) -> float:
        matrix = torch.full((max(1, min(outputs, _SIZE // inputs)), inputs), 0.01, dtype=of, device=device)
        states, best = torch.full((rows, inputs), 0.01, dtype=of, device=device), math.inf
        for _ in range(_CALLS):
            started = time.perf_counter()
            product(states, matrix) if of is torch.float32 else states @ matrix.T
            if states.is_cuda:
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - started)
        return 2 * rows * matrix.numel() / max(best, 1e-9)

    return Machine(
        layers=speed(tokens, *shape.largest_matrix, dtype),
        head=speed(BLOCK_ROWS, shape.vocabulary, shape.width, torch.float32),
    )
