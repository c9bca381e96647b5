"""The optimal brain surgeon column by column: SparseGPT removes weights, GPTQ rounds them, the next take up the error.

The Hessian and its factor stand in `hessian.py`, the sweep through one block of columns in `sweep.py`.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.pruning.masks import Mask, keep_share, share_of
from prunescope.pipelines.pruning.methods.column_update import sweep
from prunescope.pipelines.pruning.methods.hessian import factored, target_of
from prunescope.pipelines.pruning.methods.matrix_context import MatrixContext
from prunescope.pipelines.pruning.methods.quantization_grid import grid, grids, quantized
from prunescope.pipelines.pruning.weight_delta import QuantizedWeights, WeightDelta
from prunescope.pipelines.recipes import GPTQ, SparseGPT

# Columns of a block of GPTQ without groups: the sweep inside stays in a core's cache, the rest is matrix products.
COLUMNS = 128

Block = Float[Tensor, "out width"]
Weight = Float[Tensor, "out in"]


def sparsegpt(given: MatrixContext, recipe: SparseGPT) -> WeightDelta | None:
    """Removes weights block by block of columns, and has those further right take up the error (2301.00774 §3, Alg. 1).

    It rebuilds the dense matrix's output. What an earlier recipe masked stays masked, and counts: a mask that is
    already as sparse as asked is kept as it is, and its weights are solved again; from a lighter one the missing
    weights are taken. Weights of dead inputs become zero. A matrix of which nothing shall go is left alone (None).

    Raises:
        InputError: no pattern, M does not divide the inputs, or no token reached the matrix.
        ComputationError: as `factored`, or a weight is NaN.
    """
    if given.sparsity == 0 and given.kept is None:
        return None
    factor = factored(given, recipe.name, recipe.damping)
    target = target_of(given, given.dense, factor.dead)
    inputs = target.shape[1]
    kept = torch.ones_like(target, dtype=torch.bool) if given.kept is None else given.kept.to(target.device)
    pattern, width = (0, 0), recipe.columns
    share = None
    if recipe.keep is not None and recipe.block is not None:
        if inputs % recipe.block:
            raise InputError(
                f"{given.name}: {recipe.keep}:{recipe.block} needs a multiple of {recipe.block} inputs, not {inputs}"
            )
        pattern = (recipe.keep, recipe.block)
        width = -(-width // recipe.block) * recipe.block
    elif given.sparsity is not None:
        share = _Share(kept, given.sparsity, recipe.group)
    else:
        raise InputError(f"recipe {recipe.name}: give `sparsity`, or `keep` and `block`")
    mask = kept.clone()

    def step(columns: slice, current: Block, inverse: Float[Tensor, "width width"]) -> Block:
        if share is not None:
            mask[:, columns] = share.chosen(current.abs() / inverse.diagonal(), mask[:, columns])
        final, mask[:, columns] = sweep(current, inverse, mask[:, columns], pattern)
        return final

    weight = by_blocks(target, factor.root, width, step)
    return WeightDelta.valued(weight.to(given.weight.dtype), mask)


class _Share:
    """How many weights of each column block go, so that the count is exact in the matrix, or in each row.

    What an earlier mask has removed counts first. The rest is taken from the blocks in proportion to what they keep.
    """

    def __init__(self, kept: Mask, sparsity: float, group: str) -> None:
        self._rows = 1 if group == "block" else len(kept)
        whole = kept.reshape(self._rows, -1)
        self._kept = whole.sum(dim=1)
        self._missing = (share_of(whole.shape[1], sparsity) - (whole.shape[1] - self._kept)).clamp(min=0)
        self._seen = torch.zeros_like(self._kept)

    def chosen(self, scores: Block, kept: Bool[Tensor, "out width"]) -> Bool[Tensor, "out width"]:
        """What stays of the next block."""
        before, self._seen = self._seen, self._seen + kept.reshape(self._rows, -1).sum(dim=1)
        masked = (~kept).reshape(self._rows, -1).sum(dim=1)
        count = masked + self._due(self._seen) - self._due(before)
        ranked = scores.masked_fill(~kept, -1).reshape(self._rows, -1)
        return _all_but(ranked, count).reshape(kept.shape)

    def _due(self, seen: Tensor) -> Tensor:
        """Weights to have removed when so many kept ones were seen; in integers, so that the last one fits."""
        whole = self._kept.clamp(min=1)
        return (2 * self._missing * seen + whole) // (2 * whole)


def _all_but(scores: Float[Tensor, "rows n"], counts: Int[Tensor, " rows"]) -> Bool[Tensor, "rows n"]:
    """All but so many of the lowest scores of each row; equal scores go in index order."""
    size = scores.shape[1]
    if len(scores) == 1:
        return keep_share(scores, int(counts) / size, "matrix")
    places = torch.arange(size, device=scores.device).expand_as(scores)
    return torch.empty_like(scores, dtype=torch.bool).scatter_(
        1, scores.argsort(dim=1, stable=True), places >= counts[:, None]
    )


def gptq(given: MatrixContext, recipe: GPTQ) -> WeightDelta:
    """Rounds column by column, and has those further right take up the error (2210.17323 §3, Alg. 1).

    It rebuilds the output of the matrix that it is given, which an earlier recipe may have pruned: what is masked
    stays zero. A group's grid spans its weights as they are when the sweep reaches it; a row's grid without groups,
    and every grid under `act_order`, spans the weights before. Weights of dead inputs become zero.

    Raises:
        InputError: no token reached the matrix.
        ComputationError: as `factored`, or a weight is NaN.
    """
    factor = factored(given, recipe.name, recipe.damping, largest_first=recipe.act_order)
    outputs, inputs = given.weight.shape
    device = given.weight.device
    order = torch.arange(inputs, device=device) if factor.order is None else factor.order
    group = min(recipe.group or inputs, inputs)
    moves = recipe.group is not None and not recipe.act_order
    target = target_of(given, given.weight[:, order], factor.dead)
    kept = torch.ones_like(target, dtype=torch.bool) if given.kept is None else given.kept.to(device)[:, order]
    scales, zeros = grids(target[:, order.argsort()], recipe.bits, group, recipe.symmetric)

    def step(columns: slice, current: Block, inverse: Float[Tensor, "width width"]) -> Block:
        groups = order[columns] // group
        if moves:
            own = current.masked_fill(~kept[:, columns], 0)
            scales[:, groups[0]], zeros[:, groups[0]] = grid(own, recipe.bits, recipe.symmetric)
        return sweep(current, inverse, kept[:, columns], (0, 0), (scales, zeros, groups), 2**recipe.bits - 1)[0]

    final = by_blocks(target, factor.root, group if moves else COLUMNS, step)[:, order.argsort()]
    codes = torch.cat(
        [
            quantized(part, scales[:, index], zeros[:, index], recipe.bits)
            for index, part in enumerate(final.split(group, dim=1))
        ],
        dim=1,
    )
    return WeightDelta.quantized(
        (outputs, inputs), QuantizedWeights.of(codes, recipe.bits, group, scales, zeros), given.kept
    )


def by_blocks(
    target: Weight,
    root: Float[Tensor, "in in"],
    width: int,
    step: Callable[[slice, Block, Float[Tensor, "width width"]], Block],
) -> Weight:
    """Settles the columns of Q, block by block, so that ‖(W − Q) R‖ stays small.

    With Δ = W − Q settled up to a block b, the best that the columns from b on can do is to make the rest of Δ R
    zero: W_b + Δ R_b R_bb⁻¹. That is what each block starts from.

    Args:
        target: W, float32.
        root: R, upper triangular.
        width: columns of a block; the last one may have fewer.
        step: from the block's columns, its weights as they are now and R_bb⁻¹, its final weights.
    """
    final = torch.empty_like(target)
    errors = torch.empty_like(target)
    for start in range(0, target.shape[1], width):
        columns = slice(start, min(start + width, target.shape[1]))
        own = root[columns, columns].double()
        inverse = torch.linalg.solve_triangular(own, torch.eye(len(own), dtype=own.dtype).to(own), upper=True).float()
        carried = errors[:, :start] @ root[:start, columns]
        final[:, columns] = step(columns, target[:, columns] + carried @ inverse, inverse)
        errors[:, columns] = target[:, columns] - final[:, columns]
    return final
