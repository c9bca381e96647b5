"""Optimal brain surgeon: SparseGPT removes and GPTQ rounds weights column by column, and later columns compensate."""

from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.pruning.masks import Mask, keep_share, require_finite, share_of
from prunescope.pipelines.pruning.methods.column_update import sweep
from prunescope.pipelines.pruning.methods.hessian import factored, target_of
from prunescope.pipelines.pruning.methods.matrix_context import MatrixContext, Methods
from prunescope.pipelines.pruning.methods.quantization_grid import grid, grids, quantized_groups
from prunescope.pipelines.pruning.weight_delta import QuantizedWeights, WeightDelta
from prunescope.pipelines.recipes import GPTQ, SparseGPT

# Columns per block of GPTQ without groups: a block's sweep stays in the cache, and the rest is matrix products.
COLUMNS = 128

Block = Float[Tensor, "out width"]
Weight = Float[Tensor, "out in"]


def sparsegpt(context: MatrixContext, recipe: SparseGPT) -> WeightDelta | None:
    """Remove weights block by block of columns, and let later columns compensate (2301.00774 §3, Alg. 1).

    It reconstructs the dense matrix's output. Weights that an earlier recipe masked stay masked and count towards the
    sparsity. A mask that is already sparse enough is kept and its weights are solved again; otherwise only the missing
    weights are removed. Weights of dead inputs become zero. Returns None if no weight is to be removed.

    Raises:
        InputError: M does not divide the inputs, or no token reached the matrix.
        ComputationError: as in `factored`, or a weight is NaN.
    """
    if context.sparsity == 0 and context.mask is None:
        return None
    factor = factored(context, recipe.name, recipe.damping)
    target = target_of(context, context.dense, factor.dead)
    inputs = target.shape[1]
    mask = torch.ones_like(target, dtype=torch.bool) if context.mask is None else context.mask.to(target.device)
    mask = mask.clone()
    pattern, width = (0, 0), recipe.columns
    quota = None
    if recipe.keep is not None and recipe.block is not None:
        if inputs % recipe.block:
            raise InputError(
                f"{context.name}: {recipe.keep}:{recipe.block} needs a multiple of {recipe.block} inputs, not {inputs}"
            )
        pattern = (recipe.keep, recipe.block)
        width = -(-width // recipe.block) * recipe.block
    else:
        quota = _Quota(mask, cast(float, context.sparsity), recipe.group)

    def step(columns: slice, current: Block, inverse: Float[Tensor, "width width"]) -> Block:
        if quota is not None:
            mask[:, columns] = quota.select(current.abs() / inverse.diagonal(), mask[:, columns])
        final, mask[:, columns] = sweep(current, inverse, mask[:, columns], pattern)
        return final

    weight = by_blocks(target, factor.root, width, step)
    return WeightDelta.valued(weight.to(context.weight.dtype), mask)


class _Quota:
    """The number of weights to remove per column block, so that the total is exact in the matrix or in each row.

    Weights that an earlier mask removed count first. The others are taken from the blocks in proportion to the weights
    that the earlier mask kept there.
    """

    def __init__(self, kept: Mask, sparsity: float, group: str) -> None:
        self._rows = 1 if group == "block" else len(kept)
        rows = kept.reshape(self._rows, -1)
        self._kept = rows.sum(dim=1)
        self._missing = (share_of(rows.shape[1], sparsity) - (rows.shape[1] - self._kept)).clamp(min=0)
        self._seen = torch.zeros_like(self._kept)

    def select(self, scores: Block, kept: Bool[Tensor, "out width"]) -> Bool[Tensor, "out width"]:
        """Return the mask of the next block."""
        before, self._seen = self._seen, self._seen + kept.reshape(self._rows, -1).sum(dim=1)
        masked = (~kept).reshape(self._rows, -1).sum(dim=1)
        count = masked + self._removed(self._seen) - self._removed(before)
        ranked = scores.masked_fill(~kept, -1).reshape(self._rows, -1)
        size = ranked.shape[1]
        if self._rows == 1:
            return keep_share(ranked, int(count) / size, "matrix").reshape(kept.shape)
        ranks = torch.arange(size, device=ranked.device).expand_as(ranked)
        is_kept, order = ranks >= count[:, None], ranked.argsort(dim=1, stable=True)
        return torch.empty_like(is_kept).scatter_(1, order, is_kept).reshape(kept.shape)

    def _removed(self, seen: Tensor) -> Tensor:
        """Return the number of weights removed after `seen` kept ones; exact at the end, by integer arithmetic."""
        kept = self._kept.clamp(min=1)
        return (2 * self._missing * seen + kept) // (2 * kept)


def gptq(context: MatrixContext, recipe: GPTQ) -> WeightDelta:
    """Round weights column by column, and let later columns compensate (2210.17323 §3, Alg. 1).

    It reconstructs the output of the current matrix, which an earlier recipe may have pruned; masked weights stay zero.
    A group's grid spans its weights at the time when the sweep reaches it. A row's grid without groups, and every grid
    under `act_order`, spans the initial weights. Weights of dead inputs become zero.

    Raises:
        InputError: no token reached the matrix.
        ComputationError: as in `factored`, or a weight is NaN.
    """
    factor = factored(context, recipe.name, recipe.damping, largest_first=recipe.act_order)
    outputs, inputs = context.weight.shape
    device = context.weight.device
    order = torch.arange(inputs, device=device) if factor.order is None else factor.order
    group = min(recipe.group or inputs, inputs)
    updates_grids = recipe.group is not None and not recipe.act_order
    target = target_of(context, context.weight[:, order], factor.dead)
    kept = torch.ones_like(target, dtype=torch.bool) if context.mask is None else context.mask.to(device)[:, order]
    scales, zeros = grids(target[:, order.argsort()], recipe.bits, group, recipe.symmetric)

    def step(columns: slice, current: Block, inverse: Float[Tensor, "width width"]) -> Block:
        groups = order[columns] // group
        if updates_grids:
            remaining = current.masked_fill(~kept[:, columns], 0)
            own = columns.start // group
            scales[:, own], zeros[:, own] = grid(remaining, recipe.bits, recipe.symmetric)
        return sweep(current, inverse, kept[:, columns], (0, 0), (scales, zeros, groups), 2**recipe.bits - 1)[0]

    final = by_blocks(target, factor.root, group if updates_grids else COLUMNS, step)[:, order.argsort()]
    require_finite(final, "a weight to quantize")
    codes = quantized_groups(final, scales, zeros, recipe.bits, group)
    packed = QuantizedWeights.of(codes, recipe.bits, group, scales, zeros)
    return WeightDelta.quantized((outputs, inputs), packed, context.mask)


def by_blocks(
    target: Weight,
    root: Float[Tensor, "in in"],
    width: int,
    step: Callable[[slice, Block, Float[Tensor, "width width"]], Block],
) -> Weight:
    """Choose the columns of Q, block by block, so that ‖(W − Q) R‖ stays small.

    If the columns of Q up to a block b are chosen and Δ = W − Q, the remaining error is least if the columns from b on
    make the rest of Δ R zero: W_b + Δ R_b R_bb⁻¹. Each block starts from there.

    W is `target`, float32; R is `root`, upper triangular. A block has `width` columns; the last one may have fewer.
    `step` maps the block's columns, its current weights and R_bb⁻¹ to its final weights.
    """
    final = torch.empty_like(target)
    errors = torch.empty_like(target)
    for start in range(0, target.shape[1], width):
        columns = slice(start, min(start + width, target.shape[1]))
        own = root[columns, columns].double()
        inverse = torch.linalg.solve_triangular(
            own, torch.eye(len(own), dtype=own.dtype, device=own.device), upper=True
        ).float()
        carried = errors[:, :start] @ root[:start, columns]
        final[:, columns] = step(columns, target[:, columns] + carried @ inverse, inverse)
        errors[:, columns] = target[:, columns] - final[:, columns]
    return final


METHODS: Methods = {SparseGPT: sparsegpt, GPTQ: gptq}
