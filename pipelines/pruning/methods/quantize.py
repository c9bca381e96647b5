"""Weight quantization to few bits: rounding to nearest, and with channels scaled by their activations first (AWQ)."""

from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.pruning.methods.matrix_context import MatrixContext
from prunescope.pipelines.pruning.methods.quantization_grid import grid, grids, quantized, quantized_groups
from prunescope.pipelines.pruning.weight_delta import QuantizedWeights, WeightDelta
from prunescope.pipelines.recipes import AWQ, RTN
from prunescope.pipelines.recipes.quantization import QuantizationRecipe

Weight = Float[Tensor, "out in"]
Channels = Float[Tensor, " in"]
Gram = Float[Tensor, "in in"]
Grids = Float[Tensor, "out groups"]
# Smallest relative size of a channel: weights of a quieter one would all be rounded to 0.
MIN_CHANNEL = 1e-4
# Shares of a group's range that a clipping search tries, as in the published code.
CLIPS = tuple(1 - 0.05 * step for step in range(10))


@dataclass(frozen=True)
class _Rounded:
    """Quantized weights before they are packed.

    Attributes:
        codes: (outputs, inputs).
        scales: (outputs, groups).
        zeros: (outputs, groups).
        group: inputs per grid.
        channels: factors by which the inputs' weights were multiplied before.
    """

    codes: UInt8[Tensor, "out in"]
    scales: Grids
    zeros: Grids
    group: int
    channels: Channels

    @property
    def weight(self) -> Weight:
        """The dequantized weights, as `QuantizedWeights.weight` computes them."""
        groups = torch.arange(self.codes.shape[1], device=self.codes.device) // self.group
        return (self.codes.float() - self.zeros[:, groups]) * self.scales[:, groups] / self.channels


def rtn(context: MatrixContext, recipe: RTN) -> WeightDelta:
    """Round every weight to the nearest code of its group's grid; masked weights stay zero.

    Raises:
        ComputationError: a weight is NaN or infinite.
    """
    weight = context.weight.float()
    rounded = _nearest(weight, recipe, torch.ones_like(weight[0]))
    codes = QuantizedWeights.of(rounded.codes, recipe.bits, rounded.group, rounded.scales, rounded.zeros)
    return WeightDelta.quantized((weight.shape[0], weight.shape[1]), codes, context.mask)


def awq(context: MatrixContext, recipe: AWQ) -> WeightDelta:
    """Quantize with activation-aware scales (Lin et al., 2306.00978 §3.2).

    Weights are multiplied by s = a^α before rounding and divided by it afterwards, with a = √E[x²] per input channel,
    so that channels with large activations are rounded more finely. (The paper takes E|x|; α is searched for either
    way.) Of `steps` values of α from 0 to below 1, the one with the least output error tr(ΔW·G·ΔWᵀ), G = Σ x xᵀ, is
    used: exact on the calibration tokens, where the published code computes whole blocks on some of them. α = 0 is
    rounding to nearest and wins ties. A channel that is 0 on every token counts as the quietest of the others.

    Each matrix has its own scales. Inference kernels fold them into the preceding norm, so that q, k and v have to
    share them; dequantized weights need no folding.

    Raises:
        InputError: no token reached the matrix.
        ComputationError: a weight, the Gram matrix or every error is NaN or infinite.
    """
    weight = context.weight.float()
    inputs = context.require_inputs(recipe.name)
    sizes = inputs.second_moment.sqrt().to(weight.device, torch.float32)
    sizes = torch.where(sizes > 0, sizes, sizes[sizes > 0].min() if bool((sizes > 0).any()) else 1)
    sizes = (sizes / sizes.max()).clamp(min=MIN_CHANNEL)
    gram = cast(Tensor, inputs.gram)
    powers = [step / recipe.steps for step in range(recipe.steps)]
    tried = (_errors(weight, _nearest(weight, recipe, sizes**power), gram).sum() for power in powers)
    # Rounded once more below: to keep the best of all would need one answer of the device for each.
    errors = torch.stack(list(tried)).nan_to_num(nan=torch.inf, posinf=torch.inf).tolist()
    if min(errors) == torch.inf:
        raise ComputationError("the error of its output is NaN or infinite")
    best = _nearest(weight, recipe, sizes ** powers[errors.index(min(errors))])
    if recipe.clip:
        best = _clipped(weight, best, gram, recipe)
    codes = QuantizedWeights.of(best.codes, recipe.bits, best.group, best.scales, best.zeros, best.channels)
    return WeightDelta.quantized((weight.shape[0], weight.shape[1]), codes, context.mask)


def _nearest(weight: Weight, recipe: QuantizationRecipe, channels: Channels) -> _Rounded:
    """Return weights rounded on grids that span each group."""
    scaled = weight * channels
    group = min(recipe.group or scaled.shape[1], scaled.shape[1])
    scales, zeros = grids(scaled, recipe.bits, group, recipe.symmetric)
    codes = quantized_groups(scaled, scales, zeros, recipe.bits, group)
    return _Rounded(codes, scales, zeros, group, channels)


def _errors(weight: Weight, rounded: _Rounded, gram: Gram) -> Float[Tensor, " out"]:
    """Return Σ (ΔW x)² over the calibration tokens, for each output."""
    shift = rounded.weight - weight
    return ((shift @ gram) * shift).sum(dim=1, dtype=torch.float64)


def _clipped(weight: Weight, rounded: _Rounded, gram: Gram, recipe: AWQ) -> _Rounded:
    """Return the weights rounded on narrower grids where that lowers the error: large weights are clipped.

    Each output and group takes the range with the least error of its own share of the output; an output whose total
    error is not lowered keeps its grids.
    """
    channels, group = rounded.channels, rounded.group
    scaled = weight * channels
    scales, zeros = rounded.scales.clone(), rounded.zeros.clone()
    for index, columns in enumerate(torch.arange(weight.shape[1], device=weight.device).split(group)):
        part, part_gram = scaled[:, columns], gram[columns][:, columns]
        least = torch.full_like(scales[:, index], torch.inf)
        for clip in CLIPS:
            scale, zero = grid(part * clip, recipe.bits, recipe.symmetric)
            codes = quantized(part, scale, zero, recipe.bits)
            shift = (codes.float() - zero[:, None]) * scale[:, None] / channels[columns] - weight[:, columns]
            error = ((shift @ part_gram) * shift).sum(dim=1)
            is_better = error < least
            least = torch.where(is_better, error, least)
            scales[:, index] = torch.where(is_better, scale, scales[:, index])
            zeros[:, index] = torch.where(is_better, zero, zeros[:, index])
    tried = replace(
        rounded, codes=quantized_groups(scaled, scales, zeros, recipe.bits, group), scales=scales, zeros=zeros
    )
    worse = _errors(weight, tried, gram) >= _errors(weight, rounded, gram)
    scales[worse], zeros[worse] = rounded.scales[worse], rounded.zeros[worse]
    return replace(tried, codes=quantized_groups(scaled, scales, zeros, recipe.bits, group))
