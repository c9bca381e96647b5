"""Matrices with correlated inputs, contexts for methods, and errors of the outputs."""

import torch
from torch import Tensor

from prunescope.pipelines.pruning.calibration.activation_moments import ActivationMoments
from prunescope.pipelines.pruning.methods import MatrixContext, change_of
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import MaskingRecipe, parse_recipe


def correlated(tokens: int, channels: int, seed: int = 0) -> Tensor:
    """Return inputs x that share a few directions and have channels of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(tokens, max(1, channels // 4), generator=generator)
    mixed = shared @ torch.randn(shared.shape[1], channels, generator=generator)
    sizes = torch.randn(channels, generator=generator).exp()
    return (mixed + 0.5 * torch.randn(tokens, channels, generator=generator)) * sizes


def random_weight(outputs: int, inputs: int, seed: int = 1) -> Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))


def inputs_of(x: Tensor) -> ActivationMoments:
    inputs = ActivationMoments(x.shape[1])
    inputs.update(x, with_gram=True)
    return inputs


def context_of(weight: Tensor, x: Tensor | ActivationMoments, name: str, **others: object) -> MatrixContext:
    recipe = parse_recipe(name)
    sparsity = recipe.sparsity if isinstance(recipe, MaskingRecipe) else None
    inputs = x if isinstance(x, ActivationMoments) else inputs_of(x)
    return MatrixContext("m", weight, others.pop("dense", weight), inputs=inputs, sparsity=sparsity, **others)


def changed(weight: Tensor, x: Tensor | ActivationMoments, name: str, **others: object) -> WeightDelta:
    return change_of(context_of(weight, x, name, **others), parse_recipe(name))


def error(weight: Tensor, change: WeightDelta, x: Tensor) -> float:
    """Return ‖(W − Q) X‖² / ‖W X‖²."""
    shift = (weight - change.weight(weight)).double() @ x.double().T
    return float(shift.square().sum() / (weight.double() @ x.double().T).square().sum())
