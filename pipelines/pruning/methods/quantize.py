"""Weights rounded to few bits: to the nearest, and with input channels scaled by their activations first (AWQ).

One grid of codes is `grid.py`'s; rounding that passes errors on (GPTQ) is `obs.py`'s.
"""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.pruning.methods.matrix_context import MatrixContext
from prunescope.pipelines.pruning.methods.quantization_grid import grid, grids, quantized
from prunescope.pipelines.pruning.weight_delta import QuantizedWeights, WeightDelta
from prunescope.pipelines.recipes import AWQ, RTN
from prunescope.pipelines.recipes.quantization import QuantizationRecipe

Weight = Float[Tensor, "out in"]
Channels = Float[Tensor, " in"]
Gram = Float[Tensor, "in in"]
Grids = Float[Tensor, "out groups"]
# A channel counts as at least this share of the largest: weights of a quieter one would all be rounded to 0.
LEAST_CHANNEL = 1e-4
# Shares of a group's range that a clipping search tries: those of the published code.
CLIPS = tuple(1 - 0.05 * step for step in range(10))


@dataclass(frozen=True)
class _Rounded:
    """Nearest codes of weights on their grids.

    Attributes:
        codes: (outputs, inputs).
        scales: (outputs, groups).
        zeros: (outputs, groups).
        group: inputs of one grid.
        channels: what the inputs' weights were multiplied with before.
    """

    codes: UInt8[Tensor, "out in"]
    scales: Grids
    zeros: Grids
    group: int
    channels: Channels

    @property
    def weight(self) -> Weight:
        """The weights that they stand for, as `Codes.weight` computes them."""
        spread = torch.arange(self.codes.shape[1], device=self.codes.device) // self.group
        return (self.codes.float() - self.zeros[:, spread]) * self.scales[:, spread] / self.channels


def rtn(given: MatrixContext, recipe: RTN) -> WeightDelta:
    """Rounds every weight to the nearest code of its group's grid; what an earlier recipe masked stays zero.

    Raises:
        ComputationError: a weight is NaN or infinite.
    """
    weight = given.weight.float()
    rounded = _nearest(weight, recipe, torch.ones_like(weight[0]))
    codes = QuantizedWeights.of(rounded.codes, recipe.bits, rounded.group, rounded.scales, rounded.zeros)
    return WeightDelta.quantized((weight.shape[0], weight.shape[1]), codes, given.kept)


def awq(given: MatrixContext, recipe: AWQ) -> WeightDelta:
    """Activation-aware weight quantization (Lin et al., 2306.00978 §3.2).

    Weights are multiplied with s = a^α before they are rounded and divided by it afterwards, a = √E[x²] of each input
    channel, so that the channels with large activations are rounded more finely. (The paper takes E|x|; the two differ
    by a channel's form, and α is searched for either.) α is the one of `steps` steps from 0 up to 1 with the least
    error of the matrix's output, tr(ΔW·G·ΔWᵀ) with G = Σ x xᵀ: exact on the calibration tokens, where the published
    code computes whole blocks on some of them. α = 0 is rounding to the nearest, and wins ties. A channel that is 0 on
    every token, of which nothing is known, counts as the quietest of the others.

    Each matrix has scales of its own. Folded into the norm before, as inference kernels need it, q, k and v would have
    to share theirs; dequantized weights need no folding.

    Raises:
        InputError: no token reached the matrix.
        ComputationError: a weight, the Gram matrix or every error is NaN or infinite.
    """
    weight = given.weight.float()
    inputs = given.reached(recipe.name)
    sizes = inputs.second_moment.sqrt().to(weight.device, torch.float32)
    sizes = torch.where(sizes > 0, sizes, sizes[sizes > 0].min() if bool((sizes > 0).any()) else 1)
    sizes = (sizes / sizes.max()).clamp(min=LEAST_CHANNEL)
    gram = cast(Tensor, inputs.gram)
    best, least = None, torch.inf
    for step in range(recipe.steps):
        tried = _nearest(weight, recipe, sizes ** (step / recipe.steps))
        error = float(_errors(weight, tried, gram).sum())
        if error < least:
            best, least = tried, error
    if best is None:
        raise ComputationError("the error of its output is NaN or infinite")
    if recipe.clip:
        best = _clipped(weight, best, gram, recipe)
    codes = QuantizedWeights.of(best.codes, recipe.bits, best.group, best.scales, best.zeros, best.channels)
    return WeightDelta.quantized((weight.shape[0], weight.shape[1]), codes, given.kept)


def _nearest(weight: Weight, recipe: QuantizationRecipe, channels: Channels) -> _Rounded:
    """Rounded on grids that span each group."""
    scaled = weight * channels
    group = min(recipe.group or scaled.shape[1], scaled.shape[1])
    return _on_grids(scaled, channels, *grids(scaled, recipe.bits, group, recipe.symmetric), group, recipe.bits)


def _on_grids(scaled: Weight, channels: Channels, scales: Grids, zeros: Grids, group: int, bits: int) -> _Rounded:
    parts = scaled.split(group, dim=1)
    codes = [quantized(part, scales[:, index], zeros[:, index], bits) for index, part in enumerate(parts)]
    return _Rounded(torch.cat(codes, dim=1), scales, zeros, group, channels)


def _errors(weight: Weight, rounded: _Rounded, gram: Gram) -> Float[Tensor, " out"]:
    """Σ (ΔW x)² over the calibration tokens, of each output."""
    shift = rounded.weight - weight
    return ((shift @ gram) * shift).sum(dim=1, dtype=torch.float64)


def _clipped(weight: Weight, rounded: _Rounded, gram: Gram, recipe: AWQ) -> _Rounded:
    """The same with narrower grids where that is better: large weights are cut, the others rounded more finely.

    Every output and group by itself takes the range with the least error of its own share of the output; an output
    whose whole error that does not lower keeps its grids.
    """
    channels, group = rounded.channels, rounded.group
    scaled = weight * channels
    scales, zeros = rounded.scales.clone(), rounded.zeros.clone()
    for index, columns in enumerate(torch.arange(weight.shape[1], device=weight.device).split(group)):
        part, own = scaled[:, columns], gram[columns][:, columns]
        least = torch.full_like(scales[:, index], torch.inf)
        for clip in CLIPS:
            scale, zero = grid(part * clip, recipe.bits, recipe.symmetric)
            codes = quantized(part, scale, zero, recipe.bits)
            shift = (codes.float() - zero[:, None]) * scale[:, None] / channels[columns] - weight[:, columns]
            error = ((shift @ own) * shift).sum(dim=1)
            is_better = error < least
            least = torch.where(is_better, error, least)
            scales[:, index] = torch.where(is_better, scale, scales[:, index])
            zeros[:, index] = torch.where(is_better, zero, zeros[:, index])
    tried = _on_grids(scaled, channels, scales, zeros, group, recipe.bits)
    worse = _errors(weight, tried, gram) >= _errors(weight, rounded, gram)
    scales[worse], zeros[worse] = rounded.scales[worse], rounded.zeros[worse]
    return _on_grids(scaled, channels, scales, zeros, group, recipe.bits)
