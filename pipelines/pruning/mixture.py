"""The drops of a mixed recipe and the checks of its treatments; `layerwise` changes the matrices."""

import torch

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.sublayer import Sublayer
from prunescope.pipelines.models.weight_matrices import Matrix
from prunescope.pipelines.pruning.methods.depth import drop
from prunescope.pipelines.pruning.pruning_inputs import Statistics
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.recipes import MixedRecipe
from prunescope.pipelines.recipes.mixed import part_of, sublayer_of


def without_dropped(decoder: Decoder, recipe: MixedRecipe, variant: Variant) -> Variant:
    """Return a variant without the sublayers that a recipe drops, or the variant itself if they are already gone.

    Raises:
        InputError: the model has no such sublayer, or none would be left.
    """
    if recipe.drops is None or set(recipe.drops.sublayers) <= {*variant.dropped}:
        return variant
    return drop(decoder, recipe.drops, Statistics(), variant)


def require_matrices(decoder: Decoder, recipe: MixedRecipe) -> None:
    """Raise an InputError for a matrix that the model does not have; it names those of the sublayer."""
    sublayers = {sublayer.label: sublayer for sublayer in decoder.sublayers}
    for place in recipe.matrix_recipes:
        label = sublayer_of(place)
        if not _matrices(sublayers[label], place):
            own = ", ".join(dict.fromkeys(f"{label}.{part_of(name)}" for name in sublayers[label].matrices))
            raise InputError(f"recipe {recipe.name}: the model has no {place}; {label} has {own}")


def require_effects(decoder: Decoder, recipe: MixedRecipe, variant: Variant) -> None:
    """Refuse treatments that leave all matrices of a sublayer unchanged.

    A single matrix may stay unchanged, for example because it is already sparse.

    Raises:
        ComputationError: names the treatment and its sublayer or matrix.
    """

    def is_other(name: str, matrix: Matrix) -> bool:
        dense, change = matrix.weight, variant.changes.get(name)
        return change is not None and not torch.equal(change.weight(dense), dense)

    for sublayer in decoder.sublayers:
        own = {place: each for place, each in recipe.matrix_recipes.items() if sublayer_of(place) == sublayer.label}
        changed = (matrix for place in own for matrix in _matrices(sublayer, place).items())
        if own and not any(is_other(*each) for each in changed):
            place, treatment = next(iter(own.items()))
            raise ComputationError(f"recipe {recipe.name}: {treatment.name} changes nothing in {place}; leave it out")


def _matrices(sublayer: Sublayer, place: str) -> dict[str, Matrix]:
    """Return the matrices of a place in a sublayer, by name."""
    return {
        name: matrix
        for name, matrix in sublayer.matrices.items()
        if place in {sublayer.label, f"{sublayer.label}.{part_of(name)}"}
    }
