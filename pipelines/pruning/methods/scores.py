"""Masks by a score of every weight: magnitude, Wanda and RIA.

Exact masks from scores are `masks.py`'s.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.pruning.masks import Mask, cumulative_shares, keep_n_of_m, keep_share
from prunescope.pipelines.pruning.methods.matrix_context import MatrixContext
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import RIA, Magnitude, MaskingRecipe, Wanda


def magnitude(given: MatrixContext, recipe: Magnitude) -> WeightDelta:
    """Keeps the weights with the largest |W| (Han et al., 1506.02626)."""
    return WeightDelta.masked(mask_of(given, recipe, given.weight.abs().float(), recipe.group))


def wanda(given: MatrixContext, recipe: Wanda) -> WeightDelta:
    """Keeps the weights with the largest |W_ij|·‖X_j‖ (Sun et al., 2306.11695 §3)."""
    return WeightDelta.masked(
        mask_of(given, recipe, given.weight.abs().float() * norms(given, recipe.name), recipe.group)
    )


def ria(given: MatrixContext, recipe: RIA) -> WeightDelta:
    """Keeps the weights with the largest (|W_ij|/Σ_j|W_ij| + |W_ij|/Σ_i|W_ij|)·‖X_j‖^power (Zhang et al., 2024).

    A row or column of zeros has no shares; its weights score 0.
    """
    sizes = given.weight.abs().float()
    scores = torch.zeros_like(sizes)
    for dim in (0, 1):
        sums = sizes.sum(dim=dim, keepdim=True)
        scores += sizes / torch.where(sums > 0, sums, 1)
    return WeightDelta.masked(mask_of(given, recipe, scores * norms(given, recipe.name) ** recipe.power, recipe.group))


def norms(given: MatrixContext, recipe: str) -> Float[Tensor, " in"]:
    """√E[x_j²] of every input, float32: ‖X_j‖ = √(tokens·E[x_j²]), and a common factor changes no ranking."""
    return given.reached(recipe).second_moment.sqrt().to(given.weight.device, torch.float32)


def mask_of(given: MatrixContext, recipe: MaskingRecipe, scores: Float[Tensor, "out in"], group: str) -> Mask:
    """The recipe's pattern on some scores.

    Args:
        given: the matrix; what an earlier recipe masked goes first and never comes back.
        recipe: its pattern.
        scores: from 0; low is dropped.
        group: `matrix`, `output` or `threshold`; an N:M pattern takes no notice.

    With `threshold`, Wanda's appendix searches by bisection for the α with which the matrix reaches the sparsity when
    every row drops the scores up to which it holds at most α of its total. That α is the k-th smallest of all these
    cumulative shares, k = round(sparsity × weights); so it is selected instead of searched, and shares equal to it are
    dropped in index order until k is exact.

    Raises:
        InputError: the pattern does not fit the matrix.
        ComputationError: a score is NaN or infinite.
    """
    if group == "threshold":
        scores, group = cumulative_shares(scores), "matrix"
    removed = None if given.kept is None else ~given.kept.to(scores.device)
    if removed is not None:
        scores = scores.masked_fill(removed, -1)
    if recipe.keep is not None and recipe.block is not None:
        mask = keep_n_of_m(scores, recipe.keep, recipe.block)
    elif given.sparsity is not None:
        mask = keep_share(scores, given.sparsity, group)
    else:
        raise InputError(f"recipe {recipe.name}: give `sparsity`, or `keep` and `block`")
    return mask if removed is None else mask & ~removed
