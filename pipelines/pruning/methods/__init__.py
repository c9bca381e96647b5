"""How each recipe changes one matrix: a function from what is given of it to its change.

Each family in a module of its own; in which order layers come, and on which tokens, is `layerwise.py`'s.
"""

from collections.abc import Callable
from typing import Any

from prunescope.pipelines.pruning.methods.admm import admm
from prunescope.pipelines.pruning.methods.dsnot import dsnot
from prunescope.pipelines.pruning.methods.matrix_context import MatrixContext, about
from prunescope.pipelines.pruning.methods.obs import gptq, sparsegpt
from prunescope.pipelines.pruning.methods.quantize import awq, rtn
from prunescope.pipelines.pruning.methods.scores import magnitude, ria, wanda
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import ADMM, AWQ, GPTQ, RIA, RTN, DSnoT, Magnitude, MatrixRecipe, SparseGPT, Wanda

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
}


def change_of(given: MatrixContext, recipe: MatrixRecipe) -> WeightDelta | None:
    """What the recipe makes of a matrix; None where it leaves it as it is.

    Raises:
        InputError: the recipe's numbers do not fit the matrix, or no token reached it.
        ComputationError: a score is NaN or infinite, or the method's own arithmetic failed.
    """
    if recipe.reads != "nothing" and given.inputs is None and recipe.unreached == "dense":
        given.facts["matrices_unreached"] = given.facts.get("matrices_unreached", 0) + 1
        return None
    with about(given.name):
        return METHODS[type(recipe)](given, recipe)
