"""Uniform grids of integers for weights: scale and zero of each row of a group, and the nearest codes.

Which group gets which grid, and what happens to the error, is each quantizer's business.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError

Group = Float[Tensor, "out group"]
Column = Float[Tensor, " out"]


def grid(weight: Group, bits: int, symmetric: bool) -> tuple[Column, Column]:
    """Scale and zero of each row, so that (code − zero)·scale with codes 0 to 2^bits − 1 spans it.

    0 is always on the grid, exactly: what is masked stays zero. A row of zeros gets scale 1.

    Args:
        weight: one group of inputs of every output.
        bits: of one code, 2 to 8.
        symmetric: zero in the middle of the codes (2^(bits−1)) and a range of ± the largest |w|, or min and max.

    Returns:
        Scales, and zeros as whole numbers from 0 to 2^bits − 1; float32.

    Source: GPTQ, Frantar et al., 2210.17323 §4 (min-max grids).

    Raises:
        ComputationError: a weight is NaN or infinite.
    """
    w = weight.float()
    if not bool(torch.isfinite(w).all()):
        raise ComputationError("a weight to quantize is NaN or infinite")
    steps = 2**bits - 1
    if symmetric:
        high = w.abs().amax(dim=1)
        low = -high
    else:
        low, high = w.amin(dim=1).clamp(max=0), w.amax(dim=1).clamp(min=0)
    # Divided first: the range of a row may be more than float32 holds, its step is not.
    scale = high / steps - low / steps
    scale = torch.where(scale > 0, scale, 1)
    zero = torch.full_like(scale, (steps + 1) / 2) if symmetric else (-low / scale).round().clamp(0, steps)
    return scale, zero


def quantized(weight: Group, scale: Column, zero: Column, bits: int) -> UInt8[Tensor, "out group"]:
    """The nearest code of each weight; beyond the ends of the grid, the end."""
    codes = (weight.float() / scale[:, None]).round() + zero[:, None]
    return codes.clamp(0, 2**bits - 1).to(torch.uint8)


def grids(weight: Float[Tensor, "out in"], bits: int, group: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scales and zeros of all groups of consecutive inputs, (out, groups) each; the last group may be shorter."""
    each = [grid(part, bits, symmetric) for part in weight.split(group, dim=1)]
    return torch.stack([scale for scale, _ in each], dim=1), torch.stack([zero for _, zero in each], dim=1)
