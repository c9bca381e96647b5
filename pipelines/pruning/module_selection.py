"""Which matrices of a model a recipe includes.

What becomes of them is `methods`'s, in which order is `layerwise.py`'s.
"""

from collections.abc import Collection
from fnmatch import fnmatchcase

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.decoder import Decoder, Layer
from prunescope.pipelines.models.weight_matrices import Matrix
from prunescope.pipelines.recipes import MatrixRecipe


def chosen_matrices(layer: Layer, recipe: MatrixRecipe, dropped: Collection[str] = ()) -> dict[str, Matrix]:
    """The matrices of a layer that a recipe includes, by name, in the order in which the stream meets them.

    Args:
        layer: the layer.
        recipe: its `modules` are the choice.
        dropped: labels of sublayers that are gone already: nothing is left to change in them.
    """
    return {
        name: matrix
        for sublayer in layer.sublayers
        if sublayer.label not in dropped
        for name, matrix in sublayer.matrices.items()
        if not recipe.modules or any(_matches(pattern, sublayer.kind, name) for pattern in recipe.modules)
    }


def require_matches(decoder: Decoder, recipe: MatrixRecipe) -> None:
    """Refuses a pattern that no matrix matches: a slip of the pen would leave half a recipe out.

    Raises:
        InputError: there is one; names some matrices that are there.
    """
    names = [(sublayer.kind, name) for sublayer in decoder.sublayers for name in sublayer.matrices]
    for pattern in recipe.modules:
        if not any(_matches(pattern, kind, name) for kind, name in names):
            of_each_kind = dict(reversed(names))
            examples = ", ".join([*of_each_kind, *of_each_kind.values()])
            raise InputError(f"recipe {recipe.name}: `modules` {pattern!r} matches no matrix; there are {examples}, …")


def _matches(pattern: str, kind: str, name: str) -> bool:
    return pattern == kind or fnmatchcase(name, pattern)
