"""ADMM: the weights that stay are solved for together, alternating with the mask (Boža, 2401.02938).

Column by column without a matrix solve for each mask stands in `obs.py`.
"""

from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.pruning.calibration.activation_moments import ActivationMoments
from prunescope.pipelines.pruning.masks import Mask, Scores, keep_n_of_m, keep_share, share_of
from prunescope.pipelines.pruning.methods.hessian import RAISE, cholesky, gram_of, note, target_of
from prunescope.pipelines.pruning.methods.matrix_context import MatrixContext
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import ADMM

Weight = Float[Tensor, "out in"]
Square = Float[Tensor, "in in"]


def admm(given: MatrixContext, recipe: ADMM) -> WeightDelta | None:
    """Rebuilds the dense matrix's output with a sparse one (2401.02938).

    Inputs are scaled to norm 1 first, so that the magnitude of a weight is Wanda's score. Without a pattern the mask of
    the recipe before is kept and only the weights are solved for; with one, what that recipe masked stays masked and
    counts. Weights of dead inputs become zero. A matrix of which nothing shall go is left alone (None).

    Raises:
        InputError: neither a pattern nor a mask, a share that is a whole group, M does not divide the inputs,
            or no token reached the matrix.
        ComputationError: the Gram matrix or a weight is NaN or infinite, or not even the largest damping helps.
    """
    if given.sparsity == 0 and given.kept is None:
        return None
    gram, inverse, norms, dead, raised = _prepared(given.reached(recipe.name), given.name, recipe)
    note(given, "damping_raised", raised)
    note(given, "dead_channels", int(dead.sum()))
    target = target_of(given, given.dense, dead) * norms
    kept = torch.ones_like(target, dtype=torch.bool) if given.kept is None else given.kept.to(target.device)
    is_given = recipe.keep is None and given.sparsity is None
    if is_given and given.kept is None:
        raise InputError(
            f"recipe {recipe.name}: no mask to keep for {given.name}; give `sparsity`, or put it behind one"
        )
    if given.sparsity is not None:
        share_of(target.numel() if recipe.group == "matrix" else target.shape[1], given.sparsity)
    product = target @ gram
    weight, dual, mask = target, torch.zeros_like(target), kept
    for iteration in range(recipe.iterations):
        shifted = weight + dual
        if not is_given and iteration < recipe.mask_iterations:
            share = 1 - (1 - (iteration + 1) / recipe.mask_iterations) ** 3
            mask = _mask(shifted.abs(), kept, given, recipe, share)
        sparse = shifted * mask
        dual = shifted - sparse
        weight = (product + recipe.rho * (sparse - dual)) @ inverse
    final = torch.where(mask, (weight + dual) / norms, 0)
    return WeightDelta.valued(final.to(given.weight.dtype), mask)


def _mask(scores: Scores, kept: Mask, given: MatrixContext, recipe: ADMM, share: float) -> Mask:
    """The mask when a share of what shall go in the end is gone."""
    scores = scores.masked_fill(~kept, -1)
    if recipe.keep is None or recipe.block is None:
        return keep_share(scores, share * cast(float, given.sparsity), recipe.group) & kept
    # The N largest of every M are safe from the start, and of all the others the smallest go first.
    safe = keep_n_of_m(scores, recipe.keep, recipe.block)
    scores = scores.masked_fill(safe, torch.finfo(scores.dtype).max)
    return keep_share(scores, share * (1 - recipe.keep / recipe.block), recipe.group) & kept


def _prepared(
    inputs: ActivationMoments, name: str, recipe: ADMM
) -> tuple[Square, Square, Float[Tensor, " in"], Bool[Tensor, " in"], int]:
    """The damped Gram matrix G of scaled inputs, (G + ρI)⁻¹, norms (1 of dead ones), the dead, raises of damping."""
    key = ("admm", recipe.damping, recipe.rho)
    if key not in inputs.derived:
        gram = gram_of(inputs, name)
        dead = gram.diagonal() == 0
        norms = torch.where(dead, 1, gram.diagonal()).sqrt()
        gram = gram / norms / norms[:, None]
        lower, raised = cholesky(gram, recipe.damping, name, more=recipe.rho)
        gram.diagonal().add_(recipe.damping * RAISE**raised)
        inverse = torch.cholesky_inverse(lower)
        inputs.derived[key] = (gram.float(), inverse.float(), norms.float(), dead, raised)
    return cast(tuple[Tensor, Tensor, Tensor, Tensor, int], inputs.derived[key])
