"""The Hessian H = X Xᵀ + λI of the layer-wise error ‖(W − Q) X‖², and its factor: damped, kept with its inputs.

What is removed or rounded, and how the columns that follow take up the error, stands in `obs.py`.
"""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.pruning.calibration.activation_moments import ActivationMoments
from prunescope.pipelines.pruning.methods.matrix_context import MatrixContext

# Where the Cholesky factorization fails, damping is raised by this factor, so many times at most.
RAISE = 10.0
MOST_RAISES = 3


@dataclass(frozen=True)
class Factor:
    """H = R Rᵀ with R upper triangular, so that ‖(W − Q) X‖² + λ‖W − Q‖² = ‖(W − Q) R‖².

    The columns of W R depend on the first columns of W alone: with the first j settled, what the others can still
    make good is exactly the rest. Its inverse is the Cholesky factor of H⁻¹ that SparseGPT and GPTQ use
    (2301.00774 §3.3, 2210.17323 §3.3), and need not be computed.

    Attributes:
        root: R, float32.
        dead: inputs that are 0 on every calibration token, and no weight of which matters.
        raised: how often damping was raised.
        order: the columns' order in R and `dead`; None where it is the matrix's own.
    """

    root: Float[Tensor, "in in"]
    dead: Bool[Tensor, " in"]
    raised: int
    order: Tensor | None = None


def factored(given: MatrixContext, recipe: str, damping: float, *, largest_first: bool = False) -> Factor:
    """The factor of a matrix's Hessian; matrices that read the same inputs share one. Notes both facts of it.

    Args:
        given: the matrix.
        recipe: the recipe's name, for messages.
        damping: λ as a share of the mean diagonal of X Xᵀ over the inputs that are not dead.
        largest_first: columns in descending order of their inputs' squares (GPTQ's act-order), or as they are.

    Raises:
        InputError: no token reached the matrix.
        ComputationError: X Xᵀ is NaN or infinite, or not even the largest damping makes it positive definite.
    """
    inputs = given.reached(recipe)
    key = ("factor", damping, largest_first)
    if key not in inputs.derived:
        inputs.derived[key] = _factor(inputs, given.name, damping, largest_first)
    factor = cast(Factor, inputs.derived[key])
    note(given, "damping_raised", factor.raised)
    note(given, "dead_channels", int(factor.dead.sum()))
    return factor


def note(given: MatrixContext, fact: str, count: int) -> None:
    """Adds to a number among the facts."""
    given.facts[fact] = given.facts.get(fact, 0) + count


def gram_of(inputs: ActivationMoments, name: str) -> Float[Tensor, "in in"]:
    """X Xᵀ in float64.

    Raises:
        ComputationError: it is NaN or infinite.
    """
    gram = cast(Tensor, inputs.gram).double()
    if not _is_finite(gram):
        raise ComputationError(f"{name}: the Gram matrix of its inputs is NaN or infinite")
    return gram


def target_of(
    given: MatrixContext, weight: Float[Tensor, "out in"], dead: Bool[Tensor, " in"]
) -> Float[Tensor, "out in"]:
    """A weight whose output is to be rebuilt, float32, with zeros where no input ever is.

    Raises:
        ComputationError: a weight is NaN or infinite.
    """
    target = weight.float().masked_fill(dead, 0).contiguous()
    if not _is_finite(target):
        raise ComputationError(f"{given.name}: a weight is NaN or infinite")
    return target


def _is_finite(values: Tensor) -> bool:
    """Whether all numbers of float32's range are: their total in float64 is finite exactly then."""
    return bool(torch.isfinite(values.sum(dtype=torch.float64)))


def _factor(inputs: ActivationMoments, name: str, damping: float, largest_first: bool) -> Factor:
    gram = gram_of(inputs, name)
    order = gram.diagonal().argsort(descending=True, stable=True) if largest_first else None
    if order is not None:
        gram = gram[order][:, order]
    diagonal = gram.diagonal()
    dead = diagonal == 0
    live = diagonal[~dead]
    mean = float(live.mean()) if len(live) else 1.0
    # Cholesky of H with its columns in reverse, P H P = L Lᵀ, gives R = P L P.
    lower, raised = cholesky(gram.flip(0, 1), damping, name, unit=mean)
    return Factor(lower.flip(0, 1).float(), dead, raised, order)


def cholesky(
    gram: Float[Tensor, "in in"], damping: float, name: str, *, unit: float = 1.0, more: float = 0.0
) -> tuple[Float[Tensor, "in in"], int]:
    """The lower Cholesky factor of G + (λ·unit + more)·I, and how often λ was raised by RAISE until there was one.

    Args:
        gram: G, float64.
        damping: λ at first.
        name: the matrix's, for messages.
        unit: what λ is a share of.
        more: added besides, and never raised.

    Raises:
        ComputationError: not even the largest damping makes it positive definite.
    """
    for raised in range(MOST_RAISES + 1):
        damped = gram.clone()
        damped.diagonal().add_(damping * RAISE**raised * unit + more)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            return lower, raised
    raise ComputationError(
        f"{name}: the Gram matrix of its inputs is not positive definite, not even with damping "
        f"{damping * RAISE**MOST_RAISES:g}; raise `damping` or calibrate on more tokens"
    )
