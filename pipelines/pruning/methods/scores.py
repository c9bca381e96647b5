"""Masks from scores of single weights: magnitude, Wanda and RIA."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from prunescope.pipelines.pruning.masks import Mask, cumulative_shares, keep_n_of_m, keep_share
from prunescope.pipelines.pruning.methods.matrix_context import MatrixContext, Methods
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import RIA, Magnitude, MaskingRecipe, Wanda


def magnitude(context: MatrixContext, recipe: Magnitude) -> WeightDelta:
    """Keep the weights with the largest |W| (Han et al., 1506.02626)."""
    return WeightDelta.masked(mask_of(context, recipe, context.weight.abs().float(), recipe.group))


def wanda(context: MatrixContext, recipe: Wanda) -> WeightDelta:
    """Keep the weights with the largest |W_ij|·‖X_j‖ (Sun et al., 2306.11695 §3)."""
    scores = context.weight.abs().float() * norms(context, recipe.name)
    return WeightDelta.masked(mask_of(context, recipe, scores, recipe.group))


def ria(context: MatrixContext, recipe: RIA) -> WeightDelta:
    """Keep the weights with the largest (|W_ij|/Σ_j|W_ij| + |W_ij|/Σ_i|W_ij|)·‖X_j‖^power (Zhang et al., 2024).

    Weights in a row or column of zeros score 0.
    """
    sizes = context.weight.abs().float()
    scores = torch.zeros_like(sizes)
    for dim in (0, 1):
        sums = sizes.sum(dim=dim, keepdim=True)
        scores += sizes / torch.where(sums > 0, sums, 1)
    scores = scores * norms(context, recipe.name) ** recipe.power
    return WeightDelta.masked(mask_of(context, recipe, scores, recipe.group))


def norms(context: MatrixContext, recipe: str) -> Float[Tensor, " in"]:
    """Return √E[x_j²] per input, float32; ‖X_j‖ = √(tokens·E[x_j²]), but the factor changes no ranking."""
    return context.require_inputs(recipe).second_moment.sqrt().to(context.weight.device, torch.float32)


def mask_of(context: MatrixContext, recipe: MaskingRecipe, scores: Float[Tensor, "out in"], group: str) -> Mask:
    """Return the mask of the recipe's pattern; weights that an earlier recipe masked stay masked and count as removed.

    With `threshold`, each row drops its lowest scores up to a share α of the row's total. Wanda's appendix finds α for
    a sparsity by bisection. Here α is the k-th smallest of all these cumulative shares, k = round(sparsity × weights),
    and shares equal to it are dropped in index order until k is exact.

    Scores are at least 0. `group` is `matrix`, `output` or `threshold`; an N:M pattern ignores it.

    Raises:
        InputError: the pattern does not fit the matrix.
        ComputationError: a score is NaN or infinite.
    """
    if group == "threshold":
        scores, group = cumulative_shares(scores), "matrix"
    removed = None if context.mask is None else ~context.mask.to(scores.device)
    if removed is not None:
        scores = scores.masked_fill(removed, -1)
    if recipe.keep is not None and recipe.block is not None:
        mask = keep_n_of_m(scores, recipe.keep, recipe.block)
    else:
        mask = keep_share(scores, cast(float, context.sparsity), group)
    return mask if removed is None else mask & ~removed


METHODS: Methods = {Magnitude: magnitude, Wanda: wanda, RIA: ria}
