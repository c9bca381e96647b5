"""The row of a variant in table `variants`."""

import json
import resource
import sys

import polars as pl

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.sublayer import Sublayer
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.weight_delta import WEIGHT_BYTES
from prunescope.pipelines.recipes import Recipe


def variant_row(
    decoder: Decoder,
    model: str,
    recipe: Recipe,
    variant: Variant,
    calibration_hash: str | None,
    file_bytes: int,
    seconds: float,
) -> pl.DataFrame:
    """Return the row: what the recipe removed and changed, in which sublayers, and at what cost."""
    sublayers = list(decoder.sublayers)
    prunable = sum(matrix.size for matrix in decoder.matrices.values())
    counts = [_counts(variant, sublayer) for sublayer in sublayers if sublayer.label not in variant.dropped]
    masked, updated = sum(zeros for zeros, _ in counts), sum(others for _, others in counts)
    facts = {
        key: value for key, value in variant.facts.items() if key not in {"drop_order", "drop_scores", "structure"}
    }
    dropped = sum(sublayer.size for sublayer in sublayers if sublayer.label in variant.dropped)
    names = {name for name, _ in decoder.model.named_parameters(remove_duplicate=False)}
    added = sum(substitute.size for substitute in variant.substitutes.values())
    added += sum(value.numel() for name, value in variant.parameters.items() if name not in names)
    gone = {name for sublayer in sublayers if sublayer.label in variant.dropped for name in sublayer.matrices}
    saved_bytes = sum(
        WEIGHT_BYTES * matrix.size if name in gone else variant.changes[name].saved_bytes
        for name, matrix in decoder.matrices.items()
        if name in gone or name in variant.changes
    )
    saved_bytes -= WEIGHT_BYTES * added
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
            "parameters_removed": [masked + dropped - added],
            "parameters_removed_share": [(masked + dropped - added) / total],
            "bytes_removed": [saved_bytes],
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
    """Return the numbers of weights that a mask sets to zero, and of others that differ from the dense ones."""
    zeros = others = 0
    for name, matrix in sublayer.matrices.items():
        if name not in variant.changes:
            continue
        change = variant.changes[name]
        zeros += matrix.size - change.kept
        if change.values is not None or change.codes is not None:
            dense, mask = matrix.weight, change.mask
            moved = change.weight(dense) != dense
            others += int((moved if mask is None else moved & mask.to(moved.device)).sum())
    return zeros, others


def peak_memory_bytes() -> int:
    """Return the peak resident memory of this process so far; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
