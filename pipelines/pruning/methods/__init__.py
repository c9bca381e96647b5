"""Pruning methods: functions from one matrix and its inputs to its change, one family per module."""

from collections.abc import Callable
from typing import Any

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.pruning.methods.admm import admm
from prunescope.pipelines.pruning.methods.dsnot import dsnot
from prunescope.pipelines.pruning.methods.matrix_context import MatrixContext
from prunescope.pipelines.pruning.methods.obs import gptq, sparsegpt
from prunescope.pipelines.pruning.methods.own_method import own_method
from prunescope.pipelines.pruning.methods.quantize import awq, rtn
from prunescope.pipelines.pruning.methods.scores import magnitude, ria, wanda
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import (
    ADMM,
    AWQ,
    GPTQ,
    RIA,
    RTN,
    DSnoT,
    Magnitude,
    MatrixRecipe,
    PythonRecipe,
    SparseGPT,
    Wanda,
)

__all__ = ["METHODS", "MatrixContext", "change_of"]

METHODS: dict[type[MatrixRecipe], Callable[[MatrixContext, Any], WeightDelta | None]] = {
    Magnitude: magnitude,
    Wanda: wanda,
    RIA: ria,
    SparseGPT: sparsegpt,
    ADMM: admm,
    DSnoT: dsnot,
    RTN: rtn,
    GPTQ: gptq,
    AWQ: awq,
    PythonRecipe: own_method,
}


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
