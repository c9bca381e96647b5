"""How each recipe changes one matrix: a function from what is given of it to its change.

Each family in a module of its own; in which order layers come, and on which tokens, is `layerwise.py`'s.
"""

from pipelines.pruning.changes import Change
from pipelines.pruning.methods.admm import admm
from pipelines.pruning.methods.given import Given
from pipelines.pruning.methods.obs import gptq, sparsegpt
from pipelines.pruning.methods.scores import magnitude, wanda
from pipelines.pruning.recipes import ADMM, GPTQ, Magnitude, MatrixRecipe, SparseGPT, Wanda

__all__ = ["Given", "change_of"]


def change_of(given: Given, recipe: MatrixRecipe) -> Change:
    """What the recipe makes of a matrix.

    Raises:
        InputError: the recipe's numbers do not fit the matrix, or no token reached it.
        ComputationError: a score is NaN or infinite, or the method's own arithmetic failed.
    """
    match recipe:
        case Magnitude():
            return magnitude(given, recipe)
        case Wanda():
            return wanda(given, recipe)
        case SparseGPT():
            return sparsegpt(given, recipe)
        case ADMM():
            return admm(given, recipe)
        case GPTQ():
            return gptq(given, recipe)
        case _:
            raise NotImplementedError(type(recipe).__name__)
