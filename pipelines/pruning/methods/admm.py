"""ADMM: joint reconstruction of all remaining weights, alternating with the mask (Boža, 2401.02938)."""

from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.pruning.calibration.activation_moments import ActivationMoments
from prunescope.pipelines.pruning.masks import Mask, Scores, keep_n_of_m, keep_share, share_of
from prunescope.pipelines.pruning.methods.hessian import RAISE, cholesky, gram_of, target_of
from prunescope.pipelines.pruning.methods.matrix_context import MatrixContext, Methods
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import ADMM

Weight = Float[Tensor, "out in"]
Square = Float[Tensor, "in in"]


def admm(context: MatrixContext, recipe: ADMM) -> WeightDelta | None:
    """Reconstruct the dense matrix's output with a sparse matrix (2401.02938).

    Inputs are first scaled to norm 1, so a weight's magnitude is its Wanda score. Without a pattern, the mask of the
    earlier recipe is kept and only the weights are solved for. With a pattern, weights that the earlier recipe masked
    stay masked and count as removed. Weights of dead inputs become zero. Returns None if no weight is to be removed.

    Raises:
        InputError: the pattern and the mask are missing, a share rounds to a whole group, M does not divide the
            inputs, or no token reached the matrix.
        ComputationError: the Gram matrix or a weight is NaN or infinite, or not even the largest damping helps.
    """
    if context.sparsity == 0 and context.mask is None:
        return None
    gram, inverse, norms, dead, raised = _prepared(context.require_inputs(recipe.name), context.name, recipe)
    context.add_fact("damping_raised", raised)
    context.add_fact("dead_channels", int(dead.sum()))
    target = target_of(context, context.dense, dead) * norms
    kept = torch.ones_like(target, dtype=torch.bool) if context.mask is None else context.mask.to(target.device)
    is_mask_fixed = recipe.keep is None and context.sparsity is None
    if is_mask_fixed and context.mask is None:
        raise InputError(
            f"recipe {recipe.name}: no mask to keep for {context.name}; give `sparsity`, or put it after a recipe "
            "that masks"
        )
    if context.sparsity is not None:
        share_of(target.numel() if recipe.group == "matrix" else target.shape[1], context.sparsity)
    product = target @ gram
    weight, dual, mask = target, torch.zeros_like(target), kept
    for iteration in range(recipe.iterations):
        shifted = weight + dual
        if not is_mask_fixed and iteration < recipe.mask_iterations:
            share = 1 - (1 - (iteration + 1) / recipe.mask_iterations) ** 3
            mask = _mask(shifted.abs(), kept, context, recipe, share)
        sparse = shifted * mask
        dual = shifted - sparse
        weight = (product + recipe.rho * (sparse - dual)) @ inverse
    final = torch.where(mask, (weight + dual) / norms, 0)
    return WeightDelta.valued(final.to(context.weight.dtype), mask)


def _mask(scores: Scores, kept: Mask, context: MatrixContext, recipe: ADMM, share: float) -> Mask:
    """Return the mask with a share of the final number of weights removed."""
    scores = scores.masked_fill(~kept, -1)
    if recipe.keep is None or recipe.block is None:
        return keep_share(scores, share * cast(float, context.sparsity), recipe.group) & kept
    # The N largest of every M always stay; the smallest of the others are removed first.
    safe = keep_n_of_m(scores, recipe.keep, recipe.block)
    scores = scores.masked_fill(safe, torch.finfo(scores.dtype).max)
    return keep_share(scores, share * (1 - recipe.keep / recipe.block), recipe.group) & kept


def _prepared(
    inputs: ActivationMoments, name: str, recipe: ADMM
) -> tuple[Square, Square, Float[Tensor, " in"], Bool[Tensor, " in"], int]:
    """Return the damped Gram matrix G of scaled inputs, (G + ρI)⁻¹, norms (1 if dead), dead inputs, times raised."""
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


METHODS: Methods = {ADMM: admm}
