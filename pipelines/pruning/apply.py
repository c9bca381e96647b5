"""Pruning of a model with any recipe, and a check that the variant changes the forward pass."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor

from prunescope.pipelines.core import code_versions
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.models.decoder import Decoder, probe_tokens
from prunescope.pipelines.models.load import load_model
from prunescope.pipelines.models.sources import locate
from prunescope.pipelines.pruning.calibration.statistics import tokens_hash
from prunescope.pipelines.pruning.distill import distill
from prunescope.pipelines.pruning.layer_checkpoints import LayerFiles
from prunescope.pipelines.pruning.layerwise import Failure, PruningJob, prune_layers
from prunescope.pipelines.pruning.methods.depth import drop
from prunescope.pipelines.pruning.methods.external import external
from prunescope.pipelines.pruning.methods.layer_sparsity import layer_sparsities
from prunescope.pipelines.pruning.mixture import require_effects, require_matrices, without_dropped
from prunescope.pipelines.pruning.module_selection import require_matches
from prunescope.pipelines.pruning.pruning_inputs import Statistics, Unfinished, known_moments, table_for
from prunescope.pipelines.pruning.repair import repair
from prunescope.pipelines.pruning.structure import prune_units
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.recipes import (
    DenseRecipe,
    DepthRecipe,
    DistillRecipe,
    ExternalRecipe,
    LayerwiseRecipe,
    MaskingRecipe,
    MatrixRecipe,
    MixedRecipe,
    NoiseRecipe,
    Recipe,
    RepairRecipe,
    SingleRecipe,
    StructuredRecipe,
    changes_matrices,
    shares_passes,
    steps,
)


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
    cache: Path | None = None,
) -> Variant:
    """Prune a model with one recipe; the decoder's weights are only read. `Statistics` explains the inputs.

    Raises:
        InputError: a statistic that the recipe needs is missing, or its numbers do not fit the model.
        ComputationError: NaN scores, or the variant leaves the forward pass unchanged.
    """
    statistics = Statistics(activation_stats, block_influence, tokens, dtype, unfinished, cache=cache)
    return _require_variant(prune_all(decoder, [recipe], statistics, progress)[recipe.name])


def prune_all(
    decoder: Decoder, recipes: Sequence[Recipe], statistics: Statistics, progress: Progress = SILENT
) -> dict[str, Variant | Failure]:
    """Return the variant or the error by recipe name; matrix recipes share passes over the calibration tokens."""
    together = [recipe for recipe in recipes if isinstance(recipe, MatrixRecipe) or shares_passes(recipe)]
    results = _prune_matrices(decoder, together, statistics, Variant(), Variant(), progress)
    probe = probe_tokens(decoder, 16)
    dense: Tensor | None = None
    for recipe in recipes:
        if recipe.name not in results:
            try:
                results[recipe.name] = _apply_steps(decoder, recipe, statistics, progress)
            except (InputError, ComputationError) as failure:
                results[recipe.name] = failure
        variant = results[recipe.name]
        # Noise may change nothing: it is a valid result if both batch shapes round alike.
        if isinstance(variant, Variant) and not isinstance(recipe, (DenseRecipe, NoiseRecipe)):
            dense = decoder.hidden(probe) if dense is None else dense
            with apply_variant(decoder, variant, max_bytes=0):  # a single pass needs one layer at a time
                if torch.equal(dense, decoder.hidden(probe)):
                    text = f"recipe {recipe.name} leaves the forward pass unchanged"
                    results[recipe.name] = ComputationError(text)
    return {recipe.name: results[recipe.name] for recipe in recipes}


def _require_variant(result: Variant | Failure) -> Variant:
    if isinstance(result, Variant):
        return result
    raise result


def _apply_steps(decoder: Decoder, recipe: Recipe, statistics: Statistics, progress: Progress) -> Variant:
    variant, origin, unfinished = Variant(), Variant(), statistics.unfinished
    for index, step in enumerate(steps(recipe)):
        own = unfinished and replace(unfinished, folder=unfinished.folder / recipe.name / str(index))
        inputs = replace(statistics, unfinished=own)
        before, variant = variant, _apply_step(decoder, step, inputs, variant, origin, progress)
        if index and variant.hash == before.hash:
            raise ComputationError(f"recipe {recipe.name}: its part {step.name} changes nothing; leave it out")
        if isinstance(step, ExternalRecipe):
            origin = variant
    return variant


def _apply_step(
    decoder: Decoder, recipe: SingleRecipe, statistics: Statistics, base: Variant, origin: Variant, progress: Progress
) -> Variant:
    match recipe:
        case DenseRecipe():
            variant = base
        case NoiseRecipe():
            variant = Variant(noise=recipe.kind)
        case DepthRecipe():
            variant = drop(decoder, recipe, statistics, base, progress)
        case ExternalRecipe():
            loaded = statistics.loaded.get(recipe.source)
            if loaded is None:
                if statistics.cache is None:
                    raise InputError(f"recipe {recipe.name} needs a cache folder for downloaded and converted files")
                folder = locate(recipe.source, statistics.cache, progress)
                loaded = load_model(folder, decoder.dtype, decoder.device, decoder.memory_for_second_model)
            variant = external(decoder, recipe, *loaded, progress)
        case StructuredRecipe():
            variant = prune_units(decoder, recipe, statistics, base, progress)
        case RepairRecipe():
            variant = repair(decoder, recipe, statistics, base, progress)
        case DistillRecipe():
            variant = distill(decoder, recipe, statistics, base, progress)
        case MatrixRecipe() | MixedRecipe():
            is_changing = changes_matrices(recipe)
            # The matrices' inputs exclude the dropped sublayers, unless the predecessors are dense.
            if isinstance(recipe, MixedRecipe) and (recipe.predecessors == "pruned" or not is_changing):
                base = without_dropped(decoder, recipe, base)
            changing = [recipe] if is_changing else []
            results = {recipe.name: base} | _prune_matrices(decoder, changing, statistics, base, origin, progress)
            variant = _require_variant(results[recipe.name])
    return variant


def _prune_matrices(
    decoder: Decoder,
    recipes: Sequence[LayerwiseRecipe],
    statistics: Statistics,
    base: Variant,
    origin: Variant,
    progress: Progress,
) -> dict[str, Variant | Failure]:
    """Prune with recipes that have the same base, layer by layer together."""
    results: dict[str, Variant | Failure] = {}
    jobs = []
    for recipe in recipes:
        try:
            jobs.append(_job(decoder, recipe, statistics, base, origin))
        except (InputError, ComputationError) as failure:
            results[recipe.name] = failure
    if jobs:
        variants = prune_layers(decoder, jobs, base, statistics, progress)
        for job, variant in zip(jobs, variants, strict=True):
            results[job.recipe.name] = _completed(decoder, job.recipe, variant)
    return results


def _completed(decoder: Decoder, recipe: LayerwiseRecipe, result: Variant | Failure) -> Variant | Failure:
    """Return a variant with changed matrices and without the sublayers that its recipe drops, or the error."""
    if isinstance(recipe, MatrixRecipe) or not isinstance(result, Variant):
        return result
    try:
        require_effects(decoder, recipe, result)
        return without_dropped(decoder, recipe, result)
    except (InputError, ComputationError) as failure:
        return failure


def _job(
    decoder: Decoder, recipe: LayerwiseRecipe, statistics: Statistics, base: Variant, origin: Variant
) -> PruningJob:
    if isinstance(recipe, MixedRecipe):
        recipe.require_sublayers(len(decoder.layers))
    changed = (sublayer for sublayer in decoder.sublayers if recipe.treatments_of(sublayer.label))
    for unread in (name for sublayer in changed for name in sublayer.unread):
        raise InputError(f"recipe {recipe.name}: {unread} is not recognised as a matrix; only drops can be used")
    moments = known_moments(recipe, statistics) if recipe.reads_table and base.is_dense else None
    if isinstance(recipe, MixedRecipe):
        require_matrices(decoder, recipe)
        treatments = recipe.matrix_recipes.items()
        sparsities = {place: each.sparsity if isinstance(each, MaskingRecipe) else None for place, each in treatments}
    else:
        require_matches(decoder, recipe)
        by_layer = layer_sparsities(decoder, recipe, table_for(recipe, statistics, "activation_stats"), base.dropped)
        sparsities = {sublayer.label: by_layer[sublayer.layer] for sublayer in decoder.sublayers}
    job = PruningJob(recipe, sparsities, moments, origin=origin)
    if job.needs_forward:
        statistics.require_tokens(recipe)
    if statistics.unfinished is None:
        return job
    return replace(job, files=_layer_files(decoder, job, statistics, statistics.unfinished, base))


def _layer_files(
    decoder: Decoder, job: PruningJob, statistics: Statistics, unfinished: Unfinished, base: Variant
) -> LayerFiles:
    """Return a job's layer files; their fingerprint covers everything that the changes depend on."""
    rows, tokens = statistics.activation_stats, statistics.tokens
    dependencies = {
        "code": code_versions.PRUNING,
        "recipe": job.recipe.hash,
        "weights": unfinished.weight_hash,
        "model dtype": str(decoder.dtype),
        "layers": len(decoder.layers),
        "base": base.hash,
        "origin": job.origin.hash,
        "sparsities": dict(job.sparsities),
        "tokens": "" if tokens is None else tokens_hash(tokens),
        "dtype": str(statistics.dtype),
        "activation_stats": "" if rows is None else hashlib.sha256(rows.write_ipc(None).getvalue()).hexdigest(),
    }
    fingerprint = hashlib.sha256(json.dumps(dependencies).encode()).hexdigest()
    return LayerFiles(unfinished.folder / job.recipe.name, fingerprint)
