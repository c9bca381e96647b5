"""From a recipe and a model's statistics to a variant, proved to change the forward pass; its row in the tables.

How each recipe works is told in `methods`, in which order layers come in `layerwise.py`.
"""

import hashlib
import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor

from pipelines import versions
from pipelines.calibration import tokens_hash
from pipelines.errors import ComputationError, InputError
from pipelines.inputs import Inputs
from pipelines.models.decoder import Decoder
from pipelines.models.sublayer import Sublayer
from pipelines.progress import SILENT, Progress
from pipelines.pruning.chosen import require_matches
from pipelines.pruning.layer_files import LayerFiles
from pipelines.pruning.layerwise import Failure, Job, prune_layers
from pipelines.pruning.methods.depth import drop
from pipelines.pruning.methods.ratios import layer_sparsities
from pipelines.pruning.methods.structure import prune_units
from pipelines.pruning.recipes import Dense, Drop, MatrixRecipe, Noise, Recipe, SingleRecipe, Structured, steps
from pipelines.pruning.variant import Variant
from pipelines.pruning.wearing import applied


@dataclass(frozen=True)
class Statistics:
    """What was measured on the dense model, the tokens for more of it, and where unfinished work is kept.

    Attributes:
        activation_stats: rows of that table, for recipes that need them; they also save recipes that read only
            moments, with dense predecessors, from running the model.
        block_influence: rows of that table, for recipes that need them.
        tokens: calibration tokens, for recipes that are calibrated.
        dtype: type in which the tokens pass the layers; None is the model's own.
        unfinished: where finished layers are kept until the variant is; None keeps them in memory.
        order: how an earlier run of the same iterative or greedy drop began, whatever its count: labels and scores.
    """

    activation_stats: pl.DataFrame | None = None
    block_influence: pl.DataFrame | None = None
    tokens: Int[Tensor, "sequences length"] | None = None
    dtype: torch.dtype | None = None
    unfinished: "Unfinished | None" = None
    order: Sequence[tuple[str, float | None]] = ()


@dataclass(frozen=True)
class Unfinished:
    """A folder for the layers that are finished, so that a killed run goes on at the one that it had reached.

    Attributes:
        folder: of the run; `layer_files.discard` removes it when the variant is saved.
        weight_hash: of the dense model.
    """

    folder: Path
    weight_hash: str


def prune(
    decoder: Decoder,
    recipe: Recipe,
    activation_stats: pl.DataFrame | None = None,
    block_influence: pl.DataFrame | None = None,
    tokens: Int[Tensor, "sequences length"] | None = None,
    progress: Progress = SILENT,
    *,
    dtype: torch.dtype | None = None,
    unfinished: Unfinished | None = None,
) -> Variant:
    """Prunes; the arguments are those of `Statistics`.

    Args:
        decoder: the dense model; its weights are read, not changed.
        recipe: what to do.
        activation_stats: rows of that table.
        block_influence: rows of that table.
        tokens: calibration tokens.
        progress: one step a layer.
        dtype: type in which the tokens pass the layers; None is the model's own.
        unfinished: where finished layers are kept until the variant is.

    Raises:
        InputError: a statistic that the recipe needs is missing, or its numbers do not fit the model.
        ComputationError: NaN scores, or the variant leaves the forward pass unchanged.
    """
    statistics = Statistics(activation_stats, block_influence, tokens, dtype, unfinished)
    found = prune_all(decoder, [recipe], statistics, progress)[recipe.name]
    if isinstance(found, Variant):
        return found
    raise found


def prune_all(
    decoder: Decoder, recipes: Sequence[Recipe], statistics: Statistics, progress: Progress = SILENT
) -> dict[str, Variant | Failure]:
    """Prunes with several recipes; those that go matrix by matrix share passes over the calibration tokens.

    Args:
        decoder: the dense model; its weights are read, not changed.
        recipes: with different names.
        statistics: what is known of the dense model.
        progress: one step a layer.

    Returns:
        By recipe name the variant, or why there is none; a failed recipe does not stop the others.
    """
    found: dict[str, Variant | Failure] = {}
    family = [recipe for recipe in recipes if isinstance(recipe, MatrixRecipe)]
    found |= _family(decoder, family, statistics, Variant(), progress)
    for recipe in recipes:
        if not isinstance(recipe, MatrixRecipe):
            try:
                found[recipe.name] = _by_parts(decoder, recipe, statistics, progress)
            except (InputError, ComputationError) as failure:
                found[recipe.name] = failure
        variant = found[recipe.name]
        # Noise may change nothing: two shapes that round alike are good news.
        if isinstance(variant, Variant) and not isinstance(recipe, (Dense, Noise)):
            found[recipe.name] = _with_effect(decoder, recipe, variant)
    return {recipe.name: found[recipe.name] for recipe in recipes}


def _by_parts(decoder: Decoder, recipe: Recipe, statistics: Statistics, progress: Progress) -> Variant:
    variant, unfinished = Variant(), statistics.unfinished
    for place, part in enumerate(steps(recipe)):
        own = unfinished and replace(unfinished, folder=unfinished.folder / recipe.name / str(place))
        variant = _one(decoder, part, replace(statistics, unfinished=own), variant, progress)
    return variant


def _one(decoder: Decoder, recipe: SingleRecipe, statistics: Statistics, base: Variant, progress: Progress) -> Variant:
    match recipe:
        case Dense():
            return base
        case Noise():
            return Variant(noise=recipe.kind)
        case Drop():
            known = statistics.order if base == Variant() else ()
            return drop(decoder, recipe, statistics.block_influence, statistics.tokens, base, progress, known)
        case Structured():
            return prune_units(decoder, recipe, statistics.activation_stats, statistics.tokens, base, progress)
        case MatrixRecipe():
            found = _family(decoder, [recipe], statistics, base, progress)[recipe.name]
            if isinstance(found, Variant):
                return found
            raise found


def _family(
    decoder: Decoder, recipes: Sequence[MatrixRecipe], statistics: Statistics, base: Variant, progress: Progress
) -> dict[str, Variant | Failure]:
    """Variants of recipes with the same base, pruned side by side."""
    found: dict[str, Variant | Failure] = {}
    jobs = []
    for recipe in recipes:
        try:
            jobs.append(_job(decoder, recipe, statistics, base))
        except (InputError, ComputationError) as failure:
            found[recipe.name] = failure
    if jobs:
        variants = prune_layers(decoder, jobs, base, statistics.tokens, statistics.dtype, progress)
        found |= {job.recipe.name: variant for job, variant in zip(jobs, variants, strict=True)}
    return found


def _job(decoder: Decoder, recipe: MatrixRecipe, statistics: Statistics, base: Variant) -> Job:
    unread = next((name for sublayer in decoder.sublayers for name in sublayer.unread), None)
    if unread is not None:
        raise InputError(f"recipe {recipe.name}: {unread} is no matrix, as far as can be seen; only drops can be used")
    moments = None
    if recipe.reads == "moments" and recipe.predecessors == "dense" and base == Variant():
        moments = _moments(recipe, statistics)
    if recipe.reads != "nothing" and moments is None and statistics.tokens is None:
        raise InputError(f"recipe {recipe.name} needs calibration tokens")
    require_matches(decoder, recipe)
    job = Job(recipe, layer_sparsities(decoder, recipe, statistics.activation_stats), moments)
    if statistics.unfinished is None:
        return job
    return replace(job, files=_files(decoder, job, statistics, statistics.unfinished, base))


def _moments(recipe: MatrixRecipe, statistics: Statistics) -> dict[str, Inputs] | None:
    """Inputs as `activation_stats` has them; None without that table.

    Raises:
        InputError: they were measured on other tokens.
    """
    rows, tokens = statistics.activation_stats, statistics.tokens
    if rows is None:
        return None
    if tokens is not None and set(rows["calibration_hash"]) != {tokens_hash(tokens)}:
        raise InputError(f"recipe {recipe.name}: activation_stats is of other tokens; materialise it again")
    return {
        row["module"]: Inputs.measured_before(
            row["tokens"], torch.tensor(row["mean"]), torch.tensor(row["second_moment"])
        )
        for row in rows.iter_rows(named=True)
    }


def _files(decoder: Decoder, job: Job, statistics: Statistics, unfinished: Unfinished, base: Variant) -> LayerFiles:
    rows, tokens = statistics.activation_stats, statistics.tokens
    follows_from = {
        "code": versions.PRUNING,
        "recipe": job.recipe.hash,
        "weights": unfinished.weight_hash,
        "model dtype": str(decoder.dtype),
        "layers": len(decoder.layers),
        "base": base.hash,
        "sparsities": list(job.sparsities),
        "tokens": "" if tokens is None else tokens_hash(tokens),
        "dtype": str(statistics.dtype),
        "activation_stats": "" if rows is None else hashlib.sha256(rows.write_ipc(None).getvalue()).hexdigest(),
    }
    fingerprint = hashlib.sha256(json.dumps(follows_from).encode()).hexdigest()
    return LayerFiles(unfinished.folder / job.recipe.name, fingerprint)


def _with_effect(decoder: Decoder, recipe: Recipe, variant: Variant) -> Variant | ComputationError:
    """A drop that stock classes ignore would compare the dense model with itself."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = decoder.head.weight.shape[0]
    probe = torch.randint(0, vocabulary, (1, 16), generator=generator).to(decoder.device)
    dense = decoder.hidden(probe)
    with applied(decoder, variant, most_held=0):  # a single pass needs no more than one layer at a time
        pruned = decoder.hidden(probe)
    if torch.equal(dense, pruned):
        return ComputationError(f"recipe {recipe.name} leaves the forward pass unchanged")
    return variant


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
    facts = {
        key: value for key, value in variant.facts.items() if key not in {"drop_order", "drop_scores", "structure"}
    }
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
