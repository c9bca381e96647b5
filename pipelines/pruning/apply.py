"""From a recipe and a model's statistics to a variant, proved to change the forward pass.

One function a family; scores here, exact masks in `masks.py`.
"""

import resource
import sys
from collections.abc import Iterator

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from pipelines.errors import ComputationError, InputError
from pipelines.models.decoder import Decoder
from pipelines.progress import SILENT, Progress
from pipelines.pruning.masks import Mask, keep_n_of_m, keep_share
from pipelines.pruning.recipes import Dense, Drop, Magnitude, Noise, Recipe, Wanda
from pipelines.pruning.variant import PackedMasks, Variant, applied


def prune(
    decoder: Decoder,
    recipe: Recipe,
    activation_stats: pl.DataFrame | None = None,
    block_influence: pl.DataFrame | None = None,
    progress: Progress = SILENT,
) -> Variant:
    """Prunes.

    Args:
        decoder: the dense model; its weights are read, not changed.
        recipe: what to do.
        activation_stats: rows of that table, for recipes that need them.
        block_influence: rows of that table, for recipes that need them.
        progress: one step a module.

    Raises:
        InputError: a statistic that the recipe needs is missing, or its numbers do not fit the model.
        ComputationError: NaN scores, or the variant leaves the forward pass unchanged.
    """
    match recipe:
        case Dense():
            return Variant()
        case Noise():  # may change nothing: two batch shapes that round alike are good news
            return Variant(noise=recipe.kind)
        case Magnitude() | Wanda():
            moments = _moments(recipe, activation_stats)
            variant = Variant(PackedMasks.of(_masks(decoder, recipe, moments, progress)))
        case Drop():
            variant = Variant(dropped=_dropped(decoder, recipe, block_influence))
    _require_effect(decoder, recipe, variant)
    return variant


def _moments(recipe: Recipe, stats: pl.DataFrame | None) -> dict[str, Tensor]:
    if "activation_stats" not in recipe.needs:
        return {}
    if stats is None:
        raise InputError(f"recipe {recipe.name} needs activation_stats; materialise them first")
    rows = zip(stats["module"], stats["second_moment"], strict=True)
    return {str(module): torch.tensor(moment.to_numpy()) for module, moment in rows}


def _masks(
    decoder: Decoder, recipe: Magnitude | Wanda, moments: dict[str, Tensor], progress: Progress
) -> Iterator[tuple[str, Mask]]:
    unread = next((name for sublayer in decoder.sublayers for name in sublayer.unread), None)
    if unread is not None:
        raise InputError(f"recipe {recipe.name}: {unread} is no matrix, as far as can be seen; only drops can be used")
    matrices = decoder.matrices
    progress.start(f"prune {recipe.name}", len(matrices))
    for name, matrix in matrices.items():
        scores = matrix.weight.abs().float()
        if isinstance(recipe, Wanda):
            if name not in moments:
                raise InputError(
                    f"recipe {recipe.name}: activation_stats has no module {name}; no calibration token reached it: "
                    "raise calibration.sequences, or use magnitude"
                )
            # ‖X_j‖ is √(tokens·E[x_j²]); the common factor √tokens changes no ranking.
            scores = scores * moments[name].to(scores).sqrt()
        yield name, _mask(scores, recipe)
        progress.advance()
    progress.done()


def _mask(scores: Float[Tensor, "out in"], recipe: Magnitude | Wanda) -> Mask:
    if recipe.keep is not None and recipe.block is not None:
        return keep_n_of_m(scores, recipe.keep, recipe.block)
    if recipe.sparsity is None:
        raise InputError(f"recipe {recipe.name}: give `sparsity`, or `keep` and `block`")
    return keep_share(scores, recipe.sparsity, recipe.group if isinstance(recipe, Magnitude) else "output")


def _dropped(decoder: Decoder, recipe: Drop, influence: pl.DataFrame | None) -> tuple[str, ...]:
    if influence is None:
        raise InputError(f"recipe {recipe.name} needs block_influence; materialise it first")
    if recipe.count >= len(decoder.layers):
        raise InputError(f"recipe {recipe.name}: the model has {len(decoder.layers)} layers; drop fewer")
    order = influence.filter(pl.col("unit").cast(pl.String) == recipe.unit).sort("drop_order").head(recipe.count)
    layers = sorted(int(layer) for layer in order["layer"])
    kinds = ("attn", "mlp") if recipe.unit == "block" else (recipe.unit,)
    return tuple(f"{kind}.{layer}" for layer in layers for kind in kinds)


def _require_effect(decoder: Decoder, recipe: Recipe, variant: Variant) -> None:
    """A drop that stock classes ignore would compare the dense model with itself."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = decoder.head.weight.shape[0]
    probe = torch.randint(0, vocabulary, (1, 16), generator=generator).to(decoder.device)
    dense = decoder.hidden(probe)
    with applied(decoder, variant):
        pruned = decoder.hidden(probe)
    if torch.equal(dense, pruned):
        raise ComputationError(f"recipe {recipe.name} leaves the forward pass unchanged")


def variant_row(
    decoder: Decoder,
    model: str,
    recipe: Recipe,
    variant: Variant,
    calibration_hash: str | None,
    file_bytes: int,
    seconds: float,
) -> pl.DataFrame:
    """The row of table `variants`: what was removed, from where, at what cost."""
    sublayers = list(decoder.sublayers)
    prunable = sum(matrix.stored.numel() for matrix in decoder.matrices.values())
    masked = sum(int((~mask).sum()) for mask in variant.masks.values())
    dropped = sum(sublayer.size for sublayer in sublayers if sublayer.label in variant.dropped)
    total = sum(parameter.numel() for parameter in decoder.model.parameters())
    return pl.DataFrame(
        {
            "model": [model],
            "recipe": [recipe.name],
            "method": [recipe.method],
            "parameters_json": [recipe.parameters_json],
            "recipe_hash": [recipe.hash],
            "weights_prunable": [prunable],
            "weights_masked": [masked],
            "sparsity": [masked / prunable],
            "parameters_removed": [masked + dropped],
            "parameters_removed_share": [(masked + dropped) / total],
            "sublayers_dropped": [list(variant.dropped)],
            "sublayers_changed": [sum(variant.changes(sublayer) for sublayer in sublayers)],
            "mask_hash": [variant.hash],
            "calibration_hash": [calibration_hash],
            "file_bytes": [file_bytes],
            "seconds": [seconds],
            "peak_memory_bytes": [peak_memory_bytes()],
        },
        schema_overrides={"sublayers_dropped": pl.List(pl.String), "calibration_hash": pl.String},
    )


def peak_memory_bytes() -> int:
    """Peak resident memory of this process so far; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
