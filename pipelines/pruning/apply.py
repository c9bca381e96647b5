"""From a recipe and a model's statistics to a variant, proved to change the forward pass; its row in the tables.

How each recipe works is told in `methods`, in which order layers come in `layerwise.py`.
"""

import json
import resource
import sys
from dataclasses import dataclass, replace

import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor

from pipelines.errors import ComputationError, InputError
from pipelines.models.decoder import Decoder
from pipelines.models.sublayer import Sublayer
from pipelines.progress import SILENT, Progress
from pipelines.pruning.chosen import require_matches
from pipelines.pruning.layerwise import prune_layers
from pipelines.pruning.methods.ratios import layer_sparsities
from pipelines.pruning.recipes import Dense, Drop, MatrixRecipe, Noise, Recipe, SingleRecipe, steps
from pipelines.pruning.variant import Variant
from pipelines.pruning.wearing import applied


def prune(
    decoder: Decoder,
    recipe: Recipe,
    activation_stats: pl.DataFrame | None = None,
    block_influence: pl.DataFrame | None = None,
    tokens: Int[Tensor, "sequences length"] | None = None,
    progress: Progress = SILENT,
) -> Variant:
    """Prunes.

    Args:
        decoder: the dense model; its weights are read, not changed.
        recipe: what to do.
        activation_stats: rows of that table, for recipes that need them.
        block_influence: rows of that table, for recipes that need them.
        tokens: calibration tokens, for recipes that are calibrated.
        progress: one step a layer.

    Raises:
        InputError: a statistic that the recipe needs is missing, or its numbers do not fit the model.
        ComputationError: NaN scores, or the variant leaves the forward pass unchanged.
    """
    statistics = Statistics(activation_stats, block_influence, tokens)
    variant = Variant()
    for part in steps(recipe):
        variant = _one(decoder, part, statistics, variant, progress)
    if not isinstance(recipe, (Dense, Noise)):  # noise may change nothing: two shapes that round alike are good news
        _require_effect(decoder, recipe, variant)
    return variant


@dataclass(frozen=True)
class Statistics:
    """What was measured on the dense model, and the tokens for more of it; arguments of `prune`."""

    activation_stats: pl.DataFrame | None
    block_influence: pl.DataFrame | None
    tokens: Int[Tensor, "sequences length"] | None


def _one(decoder: Decoder, recipe: SingleRecipe, statistics: Statistics, base: Variant, progress: Progress) -> Variant:
    match recipe:
        case Dense():
            return base
        case Noise():
            return Variant(noise=recipe.kind)
        case Drop():
            return replace(base, dropped=(*base.dropped, *_dropped(decoder, recipe, statistics.block_influence)))
        case MatrixRecipe():
            unread = next((name for sublayer in decoder.sublayers for name in sublayer.unread), None)
            if unread is not None:
                raise InputError(
                    f"recipe {recipe.name}: {unread} is no matrix, as far as can be seen; only drops can be used"
                )
            if recipe.reads != "nothing" and statistics.tokens is None:
                raise InputError(f"recipe {recipe.name} needs calibration tokens")
            tokens = torch.empty(0, 0, dtype=torch.int64) if statistics.tokens is None else statistics.tokens
            require_matches(decoder, recipe)
            sparsities = layer_sparsities(decoder, recipe, statistics.activation_stats)
            return prune_layers(decoder, recipe, tokens, sparsities, base, progress)


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
    counts = [_counts(variant, sublayer) for sublayer in sublayers if sublayer.label not in variant.dropped]
    masked, updated = sum(zeros for zeros, _ in counts), sum(others for _, others in counts)
    facts = {key: value for key, value in variant.facts.items() if key not in {"drop_order", "drop_scores"}}
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
            "weights_updated": [updated],
            "sparsity": [masked / prunable],
            "parameters_removed": [masked + dropped],
            "parameters_removed_share": [(masked + dropped) / total],
            "sublayers_dropped": [list(variant.dropped)],
            "drop_order": [list(variant.facts.get("drop_order", []))],
            "drop_scores": [list(variant.facts.get("drop_scores", []))],
            "facts_json": [json.dumps(facts, sort_keys=True)],
            "sublayers_changed": [sum(variant.changed(sublayer) for sublayer in sublayers)],
            "variant_hash": [variant.hash],
            "calibration_hash": [calibration_hash],
            "file_bytes": [file_bytes],
            "seconds": [seconds],
            "peak_memory_bytes": [peak_memory_bytes()],
        },
        schema_overrides={
            "sublayers_dropped": pl.List(pl.String),
            "drop_order": pl.List(pl.String),
            "drop_scores": pl.List(pl.Float64),
            "calibration_hash": pl.String,
        },
    )


def _counts(variant: Variant, sublayer: Sublayer) -> tuple[int, int]:
    """Weights of a sublayer that a mask sets to zero, and others whose value is not the dense one."""
    zeros = others = 0
    for name, matrix in sublayer.matrices.items():
        if name not in variant.changes:
            continue
        change = variant.changes[name]
        mask = change.mask
        if mask is not None:
            zeros += int((~mask).sum())
        if change.values is not None or change.codes is not None:
            moved = change.weight(matrix.weight) != matrix.weight
            others += int((moved if mask is None else moved & mask.to(moved.device)).sum())
    return zeros, others


def peak_memory_bytes() -> int:
    """Peak resident memory of this process so far; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
