"""Methods of a user's own: the code of a `python` recipe, run on one matrix after the other."""

import traceback
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.pruning.methods.matrix_context import MatrixContext, Methods
from prunescope.pipelines.pruning.methods.scores import mask_of
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes.python import FUNCTIONS, PythonRecipe


class Inputs(NamedTuple):
    """Statistics of a matrix's inputs x on the calibration tokens, which a user's function gets.

    Attributes:
        name: the matrix's name, such as `model.layers.3.mlp.up_proj`.
        tokens: number of inputs; 0 if the recipe says `statistics: nothing`.
        mean: E[x] per channel, float64, like `second_moment`, E[x²]; without channels if `tokens` is 0.
        gram: Σ x xᵀ, float32; None unless the recipe says `statistics: gram`.
    """

    name: str
    tokens: int
    mean: Float[Tensor, " in"]
    second_moment: Float[Tensor, " in"]
    gram: Float[Tensor, "in in"] | None


def own_method(context: MatrixContext, recipe: PythonRecipe) -> WeightDelta | None:
    """Return the change that the recipe's function makes to a matrix; None if it changes nothing.

    The function gets copies in float32, outside of inference mode, and the share to set to zero (None without one).
    Random numbers of torch begin with the same seed at each matrix, so a run that is resumed gives the same weights.
    Weights that `weights` sets to 0 are masked, and count as removed.

    Raises:
        InputError: the code fails, returns another shape or type, a negative score, NaN, or no N:M pattern that the
            recipe asks for.
        ComputationError: a score is NaN or infinite.
    """
    place, share = recipe.file or f"recipe {recipe.name}", context.sparsity
    if recipe.keep is not None and recipe.block is not None:
        share = 1 - recipe.keep / recipe.block
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())), torch.inference_mode(mode=False):
            torch.manual_seed(0)
            kind, function = _loaded(recipe.code, place)
            found = function(context.weight.float().clone(), _inputs(context, recipe), share)
    except InputError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == place]
        line = f", line {lines[-1]}" if lines else ""
        raise InputError(f"{place}{line}: {type(error).__name__}: {error}") from error
    if not isinstance(found, Tensor) or found.shape != context.weight.shape:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"{place}: `{kind}` returned {shape} for a matrix of {tuple(context.weight.shape)}")
    found = found.detach().to(context.weight.device, torch.float32)
    if kind == "scores":
        if bool((found < 0).any()):
            raise InputError(f"{place}: `scores` returned {float(found.min()):.3g}; scores are at least 0")
        return WeightDelta.masked(mask_of(context, recipe, found, recipe.group))
    if not bool(found.isfinite().all()):
        raise InputError(f"{place}: `weights` returned NaN or infinite numbers")
    weight = found.to(context.weight.dtype)
    kept = weight != 0
    if recipe.keep is not None and recipe.block is not None:
        most = int(kept.unflatten(1, (-1, recipe.block)).sum(dim=2).max())
        if most > recipe.keep:
            raise InputError(f"{place}: `weights` kept {most} of {recipe.block} weights; the recipe says {recipe.keep}")
    if torch.equal(weight, context.weight):
        return None
    return WeightDelta.valued(weight, kept if context.mask is None else kept & context.mask.to(kept.device))


def _inputs(context: MatrixContext, recipe: PythonRecipe) -> Inputs:
    if recipe.reads == "nothing":
        return Inputs(context.name, 0, torch.empty(0), torch.empty(0), None)
    moments = context.require_inputs(recipe.name)
    gram = moments.gram if recipe.reads == "gram" else None
    gram = None if gram is None else gram.clone()  # copies, because other recipes read the same numbers
    return Inputs(context.name, moments.tokens, moments.mean.clone(), moments.second_moment.clone(), gram)


@lru_cache(maxsize=8)
def _loaded(code: str, place: str) -> tuple[str, Callable[[Tensor, Inputs, float | None], object]]:
    """Run a method's code, and return the name of its function and the function."""
    names: dict[str, Any] = {"__name__": "prunescope_method", "__file__": place}
    exec(compile(code, place, "exec"), names)  # noqa: S102 (what --allow-python permits)
    return next((name, names[name]) for name in FUNCTIONS if name in names)


METHODS: Methods = {PythonRecipe: own_method}
