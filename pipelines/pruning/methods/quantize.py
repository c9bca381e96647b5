"""Weight quantization to few bits: rounding to nearest, also after scaling channels by their activations (AWQ)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.pruning.methods.matrix_context import MatrixContext, Methods
from prunescope.pipelines.pruning.methods.quantization_grid import grid, grids, quantized, quantized_groups
from prunescope.pipelines.pruning.weight_delta import QuantizedWeights, WeightDelta
from prunescope.pipelines.recipes import AWQ, RTN
from prunescope.pipelines.recipes.quantization import QuantizationRecipe

Weight = Float[Tensor, "out in"]
Channels = Float[Tensor, " in"]
Gram = Float[Tensor, "in in"]
Grids = Float[Tensor, "out groups"]
# Smallest relative size of a channel; weights of a smaller one would all be rounded to 0.
MIN_CHANNEL = 1e-4
# Shares of a group's range that the clipping search tries, as in the published code.
CLIPS = tuple(1 - 0.05 * step for step in range(10))
# Rows per thread that AWQ rounds at a time on a CPU: few enough for its cache, but enough for fast products.
_ROWS = 64
# Columns per product of `_half_errors` on a CPU.
_PANEL = 256
# Errors within this share of the least are compared again by the full product; both are rounded by about 1e-6.
_MARGIN = 1e-4


@dataclass(frozen=True)
class _Rounded:
    """Quantized weights before they are packed; `channels` are the factors by which inputs were multiplied before."""

    codes: UInt8[Tensor, "out in"]
    scales: Grids
    zeros: Grids
    group: int
    channels: Channels

    @property
    def weight(self) -> Weight:
        """The dequantized weights, as `QuantizedWeights.weight` computes them."""
        zeros = self.zeros.repeat_interleave(self.group, dim=1)[:, : len(self.channels)]
        scales = self.scales.repeat_interleave(self.group, dim=1)[:, : len(self.channels)]
        return (self.codes.float() - zeros) * scales / self.channels


def rtn(context: MatrixContext, recipe: RTN) -> WeightDelta:
    """Round weights to the nearest codes of their grids; masked ones stay zero. ComputationError if any is infinite."""
    weight = context.weight.float()
    rounded = _nearest(weight, recipe, torch.ones_like(weight[0]))
    codes = QuantizedWeights.of(rounded.codes, recipe.bits, rounded.group, rounded.scales, rounded.zeros)
    return WeightDelta.quantized((weight.shape[0], weight.shape[1]), codes, context.mask)


def awq(context: MatrixContext, recipe: AWQ) -> WeightDelta:
    """Quantize with activation-aware scales (Lin et al., 2306.00978 §3.2).

    Weights are multiplied by s = a^α before rounding and divided by it afterwards, with a = √E[x²] per input channel.
    So channels with large activations are rounded more finely. (The paper uses E|x|; α is searched in both cases.)
    Among `steps` values of α from 0 to below 1, the one with the least output error tr(ΔW·G·ΔWᵀ), G = Σ x xᵀ, is
    used. That error is exact on the calibration tokens; the published code computes whole blocks on some of them.
    α = 0 is rounding to nearest and wins ties. A channel that is 0 on every token counts as the smallest of the others.

    Each matrix has its own scales. Inference kernels fold scales into the preceding norm, so q, k and v have to share
    them; dequantized weights need no folding.

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
    # Outputs are independent of each other, except in the choice of α.
    rows = _ROWS * max(2, torch.get_num_threads()) if weight.device.type == "cpu" else len(weight)
    blocks = weight.tensor_split(max(1, len(weight) // rows))
    channels = sizes ** _best_power(blocks, sizes, gram, recipe)
    rounded = [_nearest(block, recipe, channels) for block in blocks]
    if recipe.clip:
        rounded = [_clipped(block, each, gram, recipe) for block, each in zip(blocks, rounded, strict=True)]
    codes, scales, zeros = (
        torch.cat([getattr(each, name) for each in rounded]) for name in ("codes", "scales", "zeros")
    )
    packed = QuantizedWeights.of(codes, recipe.bits, rounded[0].group, scales, zeros, channels)
    return WeightDelta.quantized((weight.shape[0], weight.shape[1]), packed, context.mask)


def _best_power(blocks: Sequence[Tensor], sizes: Channels, gram: Gram, recipe: AWQ) -> float:
    """Return the exponent with the least error; ties go to the smallest.

    An error is a sum of non-negative terms over blocks of outputs. The exponent with the least sum so far gets its next
    block, until every unfinished sum exceeds the least finished one.

    Raises:
        ComputationError: a scaled weight or every error is NaN or infinite.
    """
    powers = [step / recipe.steps for step in range(recipe.steps)]
    sums, counts, least = [0.0] * len(powers), [0] * len(powers), torch.inf
    while True:
        # NaN is not below infinity.
        candidates = [k for k, total in enumerate(sums) if total < torch.inf and total <= least * (1 + _MARGIN)]
        unfinished = [k for k in candidates if counts[k] < len(blocks)]
        if not unfinished:
            break
        k = min(unfinished, key=sums.__getitem__)
        block = blocks[counts[k]]
        sums[k] += float(_half_errors(_nearest(block, recipe, sizes ** powers[k]).weight - block, gram).sum())
        counts[k] += 1
        if counts[k] == len(blocks):
            least = min(least, sums[k])
    if not candidates:
        raise ComputationError("the error of its output is NaN or infinite")

    def error_of(k: int) -> float:
        errors = [_errors(block, _nearest(block, recipe, sizes ** powers[k]), gram) for block in blocks]
        return float(torch.cat(errors).sum())

    return powers[min(candidates, key=error_of) if len(candidates) > 1 else candidates[0]]


def _half_errors(shift: Weight, gram: Gram) -> Float[Tensor, " out"]:
    """Return half of Σ (ΔW x)² over the calibration tokens per output, from one triangle of G."""
    total = torch.zeros(len(shift), dtype=torch.float64, device=shift.device)
    width = _PANEL if gram.device.type == "cpu" else len(gram)
    for start in range(0, len(gram), width):
        columns = slice(start, start + width)
        own = shift[:, columns]
        product = torch.addmm(own @ gram[columns, columns], shift[:, :start], gram[:start, columns], beta=0.5)
        total += (product * own).sum(dim=1, dtype=torch.float64)
    return total


def _nearest(weight: Weight, recipe: QuantizationRecipe, channels: Channels) -> _Rounded:
    """Return weights rounded on grids that span each group."""
    scaled = weight * channels
    group = min(recipe.group or scaled.shape[1], scaled.shape[1])
    scales, zeros = grids(scaled, recipe.bits, group, recipe.symmetric)
    codes = quantized_groups(scaled, scales, zeros, recipe.bits, group)
    return _Rounded(codes, scales, zeros, group, channels)


def _errors(weight: Weight, rounded: _Rounded, gram: Gram) -> Float[Tensor, " out"]:
    """Return Σ (ΔW x)² over the calibration tokens per output."""
    shift = rounded.weight - weight
    return ((shift @ gram) * shift).sum(dim=1, dtype=torch.float64)


def _clipped(weight: Weight, rounded: _Rounded, gram: Gram, recipe: AWQ) -> _Rounded:
    """Return the weights rounded on narrower grids, which clip large weights, if that lowers the error.

    Each output and group takes the range with the least error of its own share of the output. An output whose total
    error does not fall keeps its grids.
    """
    channels, group = rounded.channels, rounded.group
    scaled = weight * channels
    scales, zeros = torch.empty_like(rounded.scales), torch.empty_like(rounded.zeros)
    for index, start in enumerate(range(0, weight.shape[1], group)):
        columns = slice(start, start + group)
        own = weight[:, columns], channels[columns], gram[columns, columns]
        scales[:, index], zeros[:, index] = _clipped_grid(*own, recipe)
    tried = replace(
        rounded, codes=quantized_groups(scaled, scales, zeros, recipe.bits, group), scales=scales, zeros=zeros
    )
    worse = _errors(weight, tried, gram) >= _errors(weight, rounded, gram)
    scales[worse], zeros[worse] = rounded.scales[worse], rounded.zeros[worse]
    return replace(tried, codes=quantized_groups(scaled, scales, zeros, recipe.bits, group))


def _clipped_grid(weight: Weight, channels: Channels, gram: Gram, recipe: AWQ) -> tuple[Tensor, Tensor]:
    """Return each output's scale and zero for the range in `CLIPS` with the least error; ties go to the widest."""

    def rounded(weight: Weight, clip: float | Tensor) -> tuple[Tensor, Tensor, Weight]:
        scaled = weight * channels
        scale, zero = grid(scaled * clip, recipe.bits, recipe.symmetric)
        codes = quantized(scaled, scale, zero, recipe.bits)
        return scale, zero, (codes.float() - zero[:, None]) * scale[:, None] / channels - weight

    def errors_of(shift: Weight) -> Float[Tensor, " out"]:
        return ((shift @ gram) * shift).sum(dim=1)

    is_wide = len(gram) > _PANEL
    tried = (rounded(weight, clip) for clip in CLIPS)
    found = [(scale, zero, _half_errors(shift, gram) if is_wide else errors_of(shift)) for scale, zero, shift in tried]
    scales, zeros, errors = (torch.stack(each) for each in zip(*found, strict=True))
    if is_wide:
        least, second = errors.sort(dim=0).values[:2]
        near = (second <= least * (1 + _MARGIN)).nonzero().squeeze(1)
        clips = torch.tensor(CLIPS, device=weight.device).repeat_interleave(len(near))[:, None]
        _, _, shift = rounded(weight[near].repeat(len(CLIPS), 1), clips)
        errors[:, near] = errors_of(shift).reshape(len(CLIPS), -1).double()
    best = errors.sort(dim=0, stable=True).indices[:1]
    return scales.gather(0, best)[0], zeros.gather(0, best)[0]


METHODS: Methods = {RTN: rtn, AWQ: awq}
