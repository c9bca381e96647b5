"""Measurement of this machine's speed at the three kinds of work in a study, within a fraction of a second."""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from prunescope.pipelines.metrics.cpu_matmul import product
from prunescope.pipelines.metrics.logit_blocks import BLOCK_ROWS
from prunescope.pipelines.models.meta_model import Shape
from prunescope.pipelines.planning.cost_model import Machine

# Numbers of a measured matrix, and bytes of the read weights: far more than a core's cache holds, yet quick to fill.
_PRODUCT_SIZE, _STREAM_BYTES = 2**24, 2**26
# The fastest of so many calls counts, because other processes slow the rest, and the first one starts threads.
_CALLS = 5


@torch.inference_mode()
def measure_machine(shape: Shape, dtype: torch.dtype, device: str, tokens: int) -> Machine:
    """Measure the speeds of this machine.

    Args:
        shape: sizes of the planned model; larger matrices are cut to `_PRODUCT_SIZE` numbers.
        dtype: type of the layers.
        device: cpu or cuda.
        tokens: length of a typical prompt with its answer.
    """

    def filled(rows: int, columns: int, of: torch.dtype = dtype) -> Tensor:
        return torch.full((max(1, rows), columns), 0.01, dtype=of, device=device)

    head = filled(min(shape.vocabulary, _PRODUCT_SIZE // shape.width), shape.width, torch.float32)
    states = filled(BLOCK_ROWS, shape.width, torch.float32)
    outputs, inputs = shape.largest_matrix
    matrix, prompt = filled(min(outputs, _PRODUCT_SIZE // inputs), inputs), filled(tokens, inputs)
    streamed, token = filled(_STREAM_BYTES // dtype.itemsize // 4096, 4096), filled(4096, 1)
    return Machine(
        layers=_rate(lambda: prompt @ matrix.T, 2 * prompt.numel() * matrix.shape[0]),
        head=_rate(lambda: product(states, head), 2 * BLOCK_ROWS * head.numel()),
        weights=_rate(lambda: streamed @ token, streamed.nbytes),
    )


def _rate(work: Callable[[], Tensor], amount: float) -> float:
    """Return the amount per second of the fastest call."""
    best = math.inf
    for _ in range(_CALLS):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return amount / max(best, 1e-9)
