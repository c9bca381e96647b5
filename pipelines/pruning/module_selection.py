"""Selection of the matrices that a recipe prunes, and names of parameters by layer."""

from collections.abc import Callable
from fnmatch import fnmatchcase

from torch import nn

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.sublayer import Sublayer
from prunescope.pipelines.models.weight_matrices import Matrix
from prunescope.pipelines.recipes import MatrixRecipe


def chosen_matrices(sublayer: Sublayer, recipe: MatrixRecipe) -> dict[str, Matrix]:
    """Return the matrices of a sublayer that match the recipe's `modules`, by name."""
    return {name: matrix for name, matrix in sublayer.matrices.items() if is_chosen(recipe, sublayer.kind, name)}


def is_chosen(recipe: MatrixRecipe, kind: str, name: str) -> bool:
    """Return whether a matrix in a sublayer of a kind matches the recipe's `modules`."""
    return not recipe.modules or any(_matches(pattern, kind, name) for pattern in recipe.modules)


def require_matches(decoder: Decoder, recipe: MatrixRecipe) -> None:
    """Raise an InputError for a pattern in `modules` that matches no matrix; it names some matrices of the model."""
    names = [(sublayer.kind, name) for sublayer in decoder.sublayers for name in sublayer.matrices]
    for pattern in recipe.modules:
        if not any(_matches(pattern, kind, name) for kind, name in names):
            of_each_kind = dict(reversed(names))
            examples = ", ".join([*of_each_kind, *of_each_kind.values()])
            raise InputError(f"recipe {recipe.name}: `modules` {pattern!r} matches no matrix; there are {examples}, …")


def _matches(pattern: str, kind: str, name: str) -> bool:
    return pattern == kind or fnmatchcase(name, pattern)


def layers_prefix(decoder: Decoder) -> str:
    """Return the name of the model's list of layers."""
    names: dict[nn.Module, str] = {module: name for name, module in decoder.model.named_modules()}
    return names[decoder.layers[0].module].rpartition(".")[0]


def layer_of(name: str, prefix: str) -> int | None:
    """Return the number of a parameter's layer in the list `prefix`, or None if it is in no layer."""
    return int(name.removeprefix(f"{prefix}.").partition(".")[0]) if name.startswith(f"{prefix}.") else None


def renumbered(name: str, prefix: str, number: Callable[[int], int]) -> str:
    """Return a parameter's name with its layer renumbered; a name outside the layers is unchanged."""
    layer = layer_of(name, prefix)
    return name if layer is None else f"{prefix}.{number(layer)}{name.removeprefix(f'{prefix}.{layer}')}"
