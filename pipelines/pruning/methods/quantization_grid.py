"""Uniform integer grids for weights: scale and zero per row of a group, and the nearest codes."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prunescope.pipelines.pruning.masks import require_finite

Group = Float[Tensor, "out group"]
Column = Float[Tensor, " out"]


def grid(weight: Group, bits: int, symmetric: bool) -> tuple[Column, Column]:
    """Return scale and zero per row of a group, so that (code − zero)·scale with codes 0 to 2^bits − 1 spans the row.

    0 is always exactly on the grid, so masked weights stay zero. A row of zeros gets scale 1. These are the min-max
    grids of GPTQ (Frantar et al., 2210.17323 §4). If `symmetric`, the zero is the middle code (2^(bits−1)) and the
    range ± the largest |w|, not min to max. Zeros are whole numbers from 0 to 2^bits − 1; both are float32.
    """
    w = weight.float()
    steps = 2**bits - 1
    if symmetric:
        high = w.abs().amax(dim=1)
        low = -high
    else:
        low, high = w.amin(dim=1).clamp(max=0), w.amax(dim=1).clamp(min=0)
    # Divided first, because a row's range may exceed float32 although its step does not.
    scale = high / steps - low / steps
    scale = torch.where(scale > 0, scale, 1)
    zero = torch.full_like(scale, (steps + 1) / 2) if symmetric else (-low / scale).round().clamp(0, steps)
    return scale, zero


def quantized(weight: Group, scale: Column, zero: Column, bits: int) -> UInt8[Tensor, "out group"]:
    """Return the nearest code of each weight, clamped to the grid's ends."""
    codes = (weight.float() / scale[:, None]).round() + zero[:, None]
    return codes.clamp(0, 2**bits - 1).to(torch.uint8)


def grids(weight: Float[Tensor, "out in"], bits: int, group: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Return scales and zeros of all groups of consecutive inputs, (out, groups) each; the last group may be shorter.

    Raises:
        ComputationError: a weight is NaN or infinite.
    """
    require_finite(weight, "a weight to quantize")
    scales, zeros = zip(*(grid(part, bits, symmetric) for part in weight.split(group, dim=1)), strict=True)
    return torch.stack(scales, dim=1), torch.stack(zeros, dim=1)


def quantized_groups(
    weight: Float[Tensor, "out in"], scales: Tensor, zeros: Tensor, bits: int, group: int
) -> UInt8[Tensor, "out in"]:
    """Return the nearest codes of weights on the grids of their groups, (out, groups) each."""
    parts = weight.split(group, dim=1)
    return torch.cat([quantized(part, scales[:, i], zeros[:, i], bits) for i, part in enumerate(parts)], dim=1)
