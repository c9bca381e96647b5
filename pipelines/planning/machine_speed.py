"""Measurement of this machine's speed at the products of a study, within a fraction of a second."""

import torch
from torch import nn
from torch.utils.benchmark import Timer

from prunescope.pipelines.metrics.cpu_matmul import product
from prunescope.pipelines.metrics.logit_blocks import BLOCK_ROWS
from prunescope.pipelines.models.meta_model import Shape
from prunescope.pipelines.planning.workload import Machine

# Numbers of a measured matrix: far more than a core's cache holds, yet quick to fill.
_SIZE = 2**24


@torch.inference_mode()
def measure_machine(shape: Shape, dtype: torch.dtype, device: str, tokens: int) -> Machine:
    """Measure the speeds of this machine.

    The layers are in `dtype`; a typical prompt with its answer has so many `tokens`. Larger matrices are cut to `_SIZE`
    numbers.
    """

    def speed(rows: int, outputs: int, inputs: int, of: torch.dtype) -> float:
        matrix = torch.full((max(1, min(outputs, _SIZE // inputs)), inputs), 0.01, dtype=of, device=device)
        states = torch.full((rows, inputs), 0.01, dtype=of, device=device)
        names = {"x": states, "w": matrix, "product": product if of is torch.float32 else nn.functional.linear}
        timer = Timer("product(x, w)", globals=names, num_threads=torch.get_num_threads())
        # The median of a tenth of a second counts, because other processes slow some products.
        return 2 * rows * matrix.numel() / timer.blocked_autorange(min_run_time=0.1).median

    return Machine(
        layers=speed(tokens, *shape.largest_matrix, dtype),
        head=speed(BLOCK_ROWS, shape.vocabulary, shape.width, torch.float32),
    )
