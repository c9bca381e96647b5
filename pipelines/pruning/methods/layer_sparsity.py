"""Distribution of a sparsity over the layers: uniform, by their outliers (OWL), or as listed in the recipe."""

from collections.abc import Collection

import polars as pl
import torch

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.module_selection import chosen_matrices
from prunescope.pipelines.recipes import MaskingRecipe, MatrixRecipe


def layer_sparsities(
    decoder: Decoder, recipe: MatrixRecipe, activation_stats: pl.DataFrame | None, dropped: Collection[str] = ()
) -> list[float | None]:
    """Return the share of weights that a recipe sets to zero per layer; None if it has no sparsity.

    Only OWL reads `activation_stats`; it omits the sublayers in `dropped`.

    Raises:
        InputError: the recipe lists ratios for another number of layers, or the statistics are missing.
    """
    count = len(decoder.layers)
    if not isinstance(recipe, MaskingRecipe):
        return [None] * count
    if isinstance(recipe.ratios, tuple):
        if len(recipe.ratios) != count:
            raise InputError(f"recipe {recipe.name}: {len(recipe.ratios)} `ratios`, but the model has {count} layers")
        return list(recipe.ratios)
    if recipe.ratios == "owl":
        return [*_owl(decoder, recipe, activation_stats, dropped)]
    return [recipe.sparsity] * count


def _owl(
    decoder: Decoder, recipe: MaskingRecipe, activation_stats: pl.DataFrame | None, dropped: Collection[str]
) -> list[float]:
    """Give layers with more outliers a lower sparsity (OWL; Yin et al., 2310.05175 §3).

    A layer's outliers are the weights whose |W_ij|·‖X_j‖ exceeds `owl_m` times the mean of all weights that the recipe
    includes in the layer. Its sparsity falls linearly with their share. The paper scales that line to a range of 2·λ
    and then moves its plain mean to the target. So layers may leave the range of ±λ, and layers of unequal size change
    the total. Here the mean is weighted by the layers' included weights and equals the target, and the layer farthest
    from it is λ away.
    """
    if activation_stats is None:
        raise InputError(f"recipe {recipe.name} needs activation_stats; materialise it first")
    moments = dict(activation_stats.select("module", "second_moment").iter_rows())
    counts = []
    for layer in decoder.layers:
        scores = []
        kept = (sublayer for sublayer in layer.sublayers if sublayer.label not in dropped)
        for name, matrix in (item for sublayer in kept for item in chosen_matrices(sublayer, recipe).items()):
            if name in moments:
                weight = matrix.weight.abs().float()
                scores.append(weight * torch.tensor(moments[name], device=weight.device).sqrt())
            elif recipe.unreached != "dense":
                raise InputError(
                    f"recipe {recipe.name}: activation_stats has no row for {name}; no calibration token reached it"
                )
        size = sum(part.numel() for part in scores)
        mean = sum(float(part.sum(dtype=torch.float64)) for part in scores) / max(size, 1)
        counts.append((sum(int((part > recipe.owl_m * mean).sum()) for part in scores), size))
    outliers, sizes = torch.tensor(counts, dtype=torch.float64).unbind(dim=1)
    # A layer without included weights has distance 0.
    distances = torch.where(sizes > 0, outliers.sum() / sizes.sum() - outliers / sizes, 0)
    farthest = distances.abs().max()
    scaled = distances / torch.where(farthest > 0, farthest, 1)
    return [float(sparsity) for sparsity in (recipe.sparsity or 0) + recipe.owl_lambda * scaled]
