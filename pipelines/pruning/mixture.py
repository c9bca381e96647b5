"""The parts of a mixed recipe that are no matrix's: its drops, and the check that every treatment changes something.

The matrices are changed by `layerwise`.
"""

import torch

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.sublayer import Sublayer
from prunescope.pipelines.pruning.methods.depth import drop
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.recipes import MixedRecipe


def without_dropped(decoder: Decoder, recipe: MixedRecipe, variant: Variant) -> Variant:
    """Return a variant without the sublayers that a recipe drops; the variant itself if they are gone already.

    Raises:
        InputError: the model has no such sublayer, or none would stay.
    """
    if recipe.drops is None or set(recipe.drops.sublayers) <= {*variant.dropped}:
        return variant
    return drop(decoder, recipe.drops, None, None, variant)


def require_effects(decoder: Decoder, recipe: MixedRecipe, variant: Variant) -> None:
    """Refuse a treatment that leaves all matrices of its sublayer as they are.

    Raises:
        ComputationError: there is one; the message names it and the sublayer.
    """
    for sublayer in decoder.sublayers:
        treatment = recipe.treatment(sublayer.label)
        if treatment is not None and not _differs(sublayer, variant):
            raise ComputationError(
                f"recipe {recipe.name}: {treatment.name} changes nothing in {sublayer.label}; leave it out"
            )


def _differs(sublayer: Sublayer, variant: Variant) -> bool:
    return any(
        not torch.equal(variant.changes[name].weight(matrix.weight), matrix.weight)
        for name, matrix in sublayer.matrices.items()
        if name in variant.changes
    )
