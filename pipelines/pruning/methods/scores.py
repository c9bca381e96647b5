"""Masks by a score of every weight: magnitude and Wanda.

Exact masks from scores are `masks.py`'s.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from pipelines.errors import InputError
from pipelines.pruning.changes import Change
from pipelines.pruning.masks import Mask, keep_n_of_m, keep_share
from pipelines.pruning.methods.given import Given
from pipelines.pruning.recipes import Magnitude, Masked, Wanda


def magnitude(given: Given, recipe: Magnitude) -> Change:
    """Keeps the weights with the largest |W| (Han et al., 1506.02626)."""
    return Change.masked(mask_of(given, recipe, given.weight.abs().float(), recipe.group))


def wanda(given: Given, recipe: Wanda) -> Change:
    """Keeps the weights with the largest |W_ij|·‖X_j‖ of each output (Sun et al., 2306.11695 §3)."""
    return Change.masked(mask_of(given, recipe, wanda_scores(given, recipe.name), "output"))


def wanda_scores(given: Given, recipe: str) -> Float[Tensor, "out in"]:
    """|W_ij|·√E[x_j²], float32: ‖X_j‖ = √(tokens·E[x_j²]), and a common factor changes no ranking."""
    moments = given.reached(recipe).second_moment
    return given.weight.abs().float() * moments.sqrt().to(given.weight.device, torch.float32)


def mask_of(given: Given, recipe: Masked, scores: Float[Tensor, "out in"], group: str) -> Mask:
    """The recipe's pattern on some scores.

    Args:
        given: the matrix; what an earlier recipe masked goes first.
        recipe: its pattern.
        scores: low is dropped.
        group: `matrix` or `output`; an N:M pattern takes no notice.
    """
    if given.kept is not None:
        scores = scores.masked_fill(~given.kept.to(scores.device), -1)
    if recipe.keep is not None and recipe.block is not None:
        return keep_n_of_m(scores, recipe.keep, recipe.block)
    if given.sparsity is None:
        raise InputError(f"recipe {recipe.name}: give `sparsity`, or `keep` and `block`")
    return keep_share(scores, given.sparsity, group)
