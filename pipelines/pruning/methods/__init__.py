"""Pruning methods: functions from one matrix and its inputs to its change, one family per module."""

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.pruning.methods import admm, dsnot, obs, own_method, quantize, scores
from prunescope.pipelines.pruning.methods.matrix_context import MatrixContext, Methods
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import MatrixRecipe

__all__ = ["METHODS", "MatrixContext", "change_of"]

METHODS: Methods = scores.METHODS | admm.METHODS | dsnot.METHODS | obs.METHODS | quantize.METHODS | own_method.METHODS


def change_of(context: MatrixContext, recipe: MatrixRecipe) -> WeightDelta | None:
    """Return the recipe's change of a matrix, or None if it leaves the matrix unchanged.

    Raises:
        InputError: the recipe's numbers do not fit the matrix, or no token reached it.
        ComputationError: a score is NaN or infinite, or the method's own arithmetic failed.
    """
    if recipe.reads != "nothing" and context.inputs is None and recipe.unreached == "dense":
        context.add_fact("matrices_unreached", 1)
        return None
    try:
        return METHODS[type(recipe)](context, recipe)
    except (ComputationError, InputError) as error:
        if context.name in str(error):
            raise
        raise type(error)(f"{context.name}: {error}") from error
