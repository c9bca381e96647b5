"""From a recipe and a model's statistics to a variant, proved to change the forward pass.

How each recipe works is told in `methods`, in which order layers come in `layerwise.py`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.models.decoder import Decoder, probe_tokens
from prunescope.pipelines.pruning.layerwise import Failure, PruningJob, prune_layers
from prunescope.pipelines.pruning.methods.depth import drop
from prunescope.pipelines.pruning.methods.external import external
from prunescope.pipelines.pruning.methods.layer_sparsity import layer_sparsities
from prunescope.pipelines.pruning.module_selection import require_matches
from prunescope.pipelines.pruning.pruning_inputs import Statistics, Unfinished, known_moments, layer_files
from prunescope.pipelines.pruning.structure import prune_units
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.recipes import (
    DenseRecipe,
    DepthRecipe,
    ExternalRecipe,
    MatrixRecipe,
    NoiseRecipe,
    Recipe,
    SingleRecipe,
    StructuredRecipe,
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
        cache: folder for what is fetched or converted, for recipes that read a checkpoint.

    Raises:
        InputError: a statistic that the recipe needs is missing, or its numbers do not fit the model.
        ComputationError: NaN scores, or the variant leaves the forward pass unchanged.
    """
    statistics = Statistics(activation_stats, block_influence, tokens, dtype, unfinished, cache=cache)
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
    found |= _family(decoder, family, statistics, Variant(), Variant(), progress)
    probe: _Probe | None = None
    for recipe in recipes:
        if not isinstance(recipe, MatrixRecipe):
            try:
                found[recipe.name] = _by_parts(decoder, recipe, statistics, progress)
            except (InputError, ComputationError) as failure:
                found[recipe.name] = failure
        variant = found[recipe.name]
        # Noise may change nothing: two shapes that round alike are good news.
        if isinstance(variant, Variant) and not isinstance(recipe, (DenseRecipe, NoiseRecipe)):
            probe = probe or _Probe(decoder)
            found[recipe.name] = probe.require_effect(recipe, variant)
    return {recipe.name: found[recipe.name] for recipe in recipes}


def _by_parts(decoder: Decoder, recipe: Recipe, statistics: Statistics, progress: Progress) -> Variant:
    variant, origin, unfinished = Variant(), Variant(), statistics.unfinished
    for place, part in enumerate(steps(recipe)):
        own = unfinished and replace(unfinished, folder=unfinished.folder / recipe.name / str(place))
        before, variant = variant, _one(decoder, part, replace(statistics, unfinished=own), variant, origin, progress)
        if place and variant.hash == before.hash:
            raise ComputationError(f"recipe {recipe.name}: its part {part.name} changes nothing; leave it out")
        if isinstance(part, ExternalRecipe):
            origin = variant
    return variant


def _one(
    decoder: Decoder, recipe: SingleRecipe, statistics: Statistics, base: Variant, origin: Variant, progress: Progress
) -> Variant:
    match recipe:
        case DenseRecipe():
            return base
        case NoiseRecipe():
            return Variant(noise=recipe.kind)
        case DepthRecipe():
            known = statistics.order if base.is_dense else ()
            influence, tokens = statistics.block_influence, statistics.tokens
            return drop(decoder, recipe, influence, tokens, base, progress, known, statistics.dtype)
        case ExternalRecipe():
            if statistics.cache is None:
                raise InputError(f"recipe {recipe.name} needs a cache folder for what it fetches or converts")
            return external(decoder, recipe, statistics.cache, progress)
        case StructuredRecipe():
            stats, tokens = statistics.activation_stats, statistics.tokens
            return prune_units(decoder, recipe, stats, tokens, base, progress, statistics.dtype)
        case MatrixRecipe():
            found = _family(decoder, [recipe], statistics, base, origin, progress)[recipe.name]
            if isinstance(found, Variant):
                return found
            raise found


def _family(
    decoder: Decoder,
    recipes: Sequence[MatrixRecipe],
    statistics: Statistics,
    base: Variant,
    origin: Variant,
    progress: Progress,
) -> dict[str, Variant | Failure]:
    """Variants of recipes with the same base, pruned side by side."""
    found: dict[str, Variant | Failure] = {}
    jobs = []
    for recipe in recipes:
        try:
            jobs.append(_job(decoder, recipe, statistics, base, origin))
        except (InputError, ComputationError) as failure:
            found[recipe.name] = failure
    if jobs:
        variants = prune_layers(decoder, jobs, base, statistics.tokens, statistics.dtype, progress)
        found |= {job.recipe.name: variant for job, variant in zip(jobs, variants, strict=True)}
    return found


def _job(decoder: Decoder, recipe: MatrixRecipe, statistics: Statistics, base: Variant, origin: Variant) -> PruningJob:
    unread = next((name for sublayer in decoder.sublayers for name in sublayer.unread), None)
    if unread is not None:
        raise InputError(f"recipe {recipe.name}: {unread} is no matrix, as far as can be seen; only drops can be used")
    moments = None
    if recipe.reads == "moments" and recipe.predecessors == "dense" and base.is_dense:
        moments = known_moments(recipe, statistics)
    if recipe.reads != "nothing" and moments is None and statistics.tokens is None:
        raise InputError(f"recipe {recipe.name} needs calibration tokens")
    require_matches(decoder, recipe)
    sparsities = layer_sparsities(decoder, recipe, statistics.activation_stats, base.dropped)
    job = PruningJob(recipe, sparsities, moments, origin=origin)
    if statistics.unfinished is None:
        return job
    return replace(job, files=layer_files(decoder, job, statistics, statistics.unfinished, base))


class _Probe:
    """A few tokens through the dense model, which every variant has to move."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._tokens = probe_tokens(decoder, 16)
        self._dense = decoder.hidden(self._tokens)

    def require_effect(self, recipe: Recipe, variant: Variant) -> Variant | ComputationError:
        """The variant; an error if it has none: a drop that stock classes ignore would be dense against dense."""
        with apply_variant(self._decoder, variant, most_held=0):  # a single pass needs no more than one layer at a time
            pruned = self._decoder.hidden(self._tokens)
        if torch.equal(self._dense, pruned):
            return ComputationError(f"recipe {recipe.name} leaves the forward pass unchanged")
        return variant
