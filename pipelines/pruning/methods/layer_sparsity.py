"""How a sparsity is shared out among the layers: uniform, by their outliers (OWL), or as given.

What is masked inside a layer is each method's.
"""

from collections.abc import Collection

import polars as pl
import torch
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.weight_matrices import Matrix
from prunescope.pipelines.pruning.module_selection import chosen_matrices
from prunescope.pipelines.recipes import MaskingRecipe, MatrixRecipe


def layer_sparsities(
    decoder: Decoder,
    recipe: MatrixRecipe,
    activation_stats: pl.DataFrame | None,
    dropped: Collection[str] = (),
) -> list[float | None]:
    """The share of weights that a recipe sets to zero in every layer; None where it is no share.

    Args:
        decoder: the dense model.
        recipe: any; only masks have shares.
        activation_stats: rows of that table, measured on the dense model; read for OWL alone.
        dropped: labels of sublayers that are gone already; they neither have outliers nor count.

    Raises:
        InputError: the recipe gives one ratio a layer, but not for as many as there are; or the statistics are missing.
    """
    count = len(decoder.layers)
    if not isinstance(recipe, MaskingRecipe):
        return [None] * count
    if isinstance(recipe.ratios, tuple):
        if len(recipe.ratios) != count:
            raise InputError(f"recipe {recipe.name}: {len(recipe.ratios)} `ratios`, but the model has {count} layers")
        return list(recipe.ratios)
    if recipe.ratios == "owl":
        return list(_owl(decoder, recipe, activation_stats, dropped))
    return [recipe.sparsity] * count


def _owl(
    decoder: Decoder, recipe: MaskingRecipe, activation_stats: pl.DataFrame | None, dropped: Collection[str]
) -> list[float]:
    """Layers with more outliers lose less (OWL; Yin et al., 2310.05175 §3).

    A layer's outliers are the weights whose |W_ij|·‖X_j‖ is over `owl_m` times the mean of all that the recipe includes
    in the layer. Its sparsity falls linearly with their share. The paper scales that line to a range of 2·λ and then
    moves its plain mean to the target, so that layers may leave the promised ±λ and those of other sizes shift the
    total. Here the line is fixed by what is promised: the mean, weighted by the layers' included weights, is the
    target, and the layer farthest from it lies λ away.
    """
    if activation_stats is None:
        raise InputError(f"recipe {recipe.name} needs activation_stats; materialise it first")
    moments = dict(activation_stats.select("module", "second_moment").iter_rows())
    found = [
        _outliers(
            {name: matrix for name, matrix in chosen.items() if _is_reached(name, recipe, moments)}, recipe, moments
        )
        for chosen in (chosen_matrices(layer, recipe, dropped) for layer in decoder.layers)
    ]
    outliers, sizes = torch.tensor(found, dtype=torch.float64).unbind(dim=1)
    # A layer of which nothing is included stays out of it.
    distances = torch.where(sizes > 0, outliers.sum() / sizes.sum() - outliers / sizes, 0)
    farthest = distances.abs().max()
    scaled = distances / torch.where(farthest > 0, farthest, 1)
    return [float(each) for each in (recipe.sparsity or 0) + recipe.owl_lambda * scaled]


def _outliers(matrices: dict[str, Matrix], recipe: MaskingRecipe, moments: dict[str, list[float]]) -> tuple[int, int]:
    """How many outliers the included weights of a layer have, and how many weights they are."""
    scores = [_scores(matrix, moments[name]) for name, matrix in matrices.items()]
    size = sum(each.numel() for each in scores)
    mean = sum(float(each.sum(dtype=torch.float64)) for each in scores) / max(size, 1)
    return sum(int((each > recipe.owl_m * mean).sum()) for each in scores), size


def _scores(matrix: Matrix, moments: list[float]) -> Tensor:
    weight = matrix.weight.abs().float()
    return weight * torch.tensor(moments, device=weight.device).sqrt()


def _is_reached(name: str, recipe: MaskingRecipe, moments: dict[str, list[float]]) -> bool:
    if name in moments:
        return True
    if recipe.unreached == "dense":
        return False
    raise InputError(f"recipe {recipe.name}: activation_stats has no row for {name}; no calibration token reached it")
