"""The damped Hessian H = X Xᵀ + λI of the layer-wise error ‖(W − Q) X‖², and its factor."""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.pruning.calibration.activation_moments import ActivationMoments
from prunescope.pipelines.pruning.masks import require_finite
from prunescope.pipelines.pruning.methods.matrix_context import MatrixContext

# If the Cholesky factorization fails, damping is multiplied by this factor, at most this many times.
RAISE = 10.0
MAX_RAISES = 3


@dataclass(frozen=True)
class Factor:
    """H = R Rᵀ with R upper triangular, so that ‖(W − Q) X‖² + λ‖W − Q‖² = ‖(W − Q) R‖².

    The first j columns of (W − Q) R depend only on the first j columns of Q, so R shows what the later columns can
    still compensate. R⁻¹ is the Cholesky factor of H⁻¹ that SparseGPT and GPTQ use (2301.00774 §3.3, 2210.17323
    §3.3), but it is not needed.

    Attributes:
        root: R, float32.
        dead: whether each input is 0 on every calibration token, so that its weights do not matter.
        raised: how often damping was raised.
        order: order of the columns in R and `dead`; None for the matrix's own order.
    """

    root: Float[Tensor, "in in"]
    dead: Bool[Tensor, " in"]
    raised: int
    order: Tensor | None = None


def factored(context: MatrixContext, recipe: str, damping: float, *, largest_first: bool = False) -> Factor:
    """Return the factor of a matrix's Hessian, shared by matrices with the same inputs, and add two facts about it.

    λ is `damping` times the mean diagonal of X Xᵀ over the inputs that are not dead. With `largest_first`, the columns
    are in descending order of Σ x² (GPTQ's act-order).

    Raises:
        InputError: no token reached the matrix.
        ComputationError: X Xᵀ is NaN or infinite, or is not positive definite with the largest damping.
    """
    inputs = context.require_inputs(recipe)
    key = ("factor", damping, largest_first)
    if key not in inputs.derived:
        gram = gram_of(inputs, context.name)
        order = gram.diagonal().argsort(descending=True, stable=True) if largest_first else None
        if order is not None:
            gram = gram[order][:, order]
        diagonal = gram.diagonal()
        dead = diagonal == 0
        live = diagonal[~dead]
        mean = float(live.mean()) if len(live) else 1.0
        # The Cholesky factor L of P H P, which is H with columns and rows reversed, gives R = P L P.
        lower, raised = cholesky(gram.flip(0, 1), damping, context.name, unit=mean)
        inputs.derived[key] = Factor(lower.flip(0, 1).float(), dead, raised, order)
    factor = cast(Factor, inputs.derived[key])
    context.add_fact("damping_raised", factor.raised)
    context.add_fact("dead_channels", int(factor.dead.sum()))
    return factor


def gram_of(inputs: ActivationMoments, name: str) -> Float[Tensor, "in in"]:
    """Return X Xᵀ in float64; ComputationError if it is NaN or infinite."""
    gram = cast(Tensor, inputs.gram).double()
    require_finite(gram, f"{name}: the Gram matrix of its inputs")
    return gram


def target_of(
    context: MatrixContext, weight: Float[Tensor, "out in"], dead: Bool[Tensor, " in"]
) -> Float[Tensor, "out in"]:
    """Return the weight to reconstruct, float32, with zeros for dead inputs; ComputationError if it is not finite."""
    target = weight.float().masked_fill(dead, 0).contiguous()
    require_finite(target, f"{context.name}: a weight")
    return target


def cholesky(
    gram: Float[Tensor, "in in"], damping: float, name: str, *, unit: float = 1.0, more: float = 0.0
) -> tuple[Float[Tensor, "in in"], int]:
    """Return the lower Cholesky factor of G + (λ·unit + more)·I, and how often λ was raised by RAISE.

    G is `gram` in float64; λ begins at `damping`.

    Raises:
        ComputationError: not positive definite with the largest damping.
    """
    for raised in range(MAX_RAISES + 1):
        damped = gram.clone()
        damped.diagonal().add_(damping * RAISE**raised * unit + more)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            return lower, raised
    raise ComputationError(
        f"{name}: the Gram matrix of its inputs is not positive definite, not even with damping "
        f"{damping * RAISE**MAX_RAISES:g}; raise `damping` or calibrate on more tokens"
    )
