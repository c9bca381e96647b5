"""Structured pruning of neurons and heads: scores, selection, masks and compensating biases.

`methods/structured_units.py` finds the units. Matrices become smaller only when a variant is exported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.calibration.activation_moments import ActivationMoments
from prunescope.pipelines.pruning.calibration.layerwise_forward import Streams
from prunescope.pipelines.pruning.masks import keep_share, require_finite
from prunescope.pipelines.pruning.methods.structured_units import Units, head_count, heads_of, neurons_of, probe_calls
from prunescope.pipelines.pruning.pruning_inputs import Statistics, known_moments
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_to_layer, swap_outer_parameters
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import StructuredRecipe


@torch.inference_mode()
def prune_units(
    decoder: Decoder, recipe: StructuredRecipe, statistics: Statistics, base: Variant, progress: Progress = SILENT
) -> Variant:
    """Remove neurons or heads from the model that earlier recipes left.

    Moments of a dense base are known from `activation_stats`. Another base is measured on the calibration tokens. Units
    whose weights are all zero score lowest and go first. The result has the rows and columns of the removed units
    masked, and biases if the recipe compensates. Its fact `structure` lists the removed units by the name of the matrix
    that reads them.

    Raises:
        InputError: the model's units are not verified, the share removes none or all of a module's units, or a
            statistic is missing.
        ComputationError: a score is NaN or infinite.
    """
    groups = _units_of(decoder, recipe, base, progress)
    moments = _moments(decoder, recipe, groups, statistics, base) if recipe.needs else {}
    scores = [_scores(units, recipe, base, moments) for units in groups]
    select = _keep_uniformly if recipe.ratios == "uniform" else _keep_globally
    changes, parameters = dict(base.changes), dict(base.parameters)
    facts: dict[str, Any] = dict(base.facts.get("structure", {}))
    for units, keep in zip(groups, select(recipe, groups, scores), strict=True):
        if recipe.compensate:
            name, bias = _compensating_bias(units, recipe, keep, base, moments)
            parameters[name] = bias
        for name, mask in _masks(units, keep).items():
            before = base.changes.get(name)
            masked = None if before is None else before.mask
            change = WeightDelta.masked(mask if masked is None else mask & masked)
            changes[name] = change if before is None else before.then(change, units.sublayer.matrices[name].weight)
        earlier = facts.get(units.reader.name, {}).get("removed", [])
        facts[units.reader.name] = {
            "kind": units.kind,
            "layer": units.sublayer.layer,
            "units": units.count,
            "columns_a_unit": units.columns.shape[1],
            "fed_by": list(units.rows),
            "removed": sorted({*earlier, *(~keep).nonzero().flatten().tolist()}),
        }
    return replace(base, changes=changes, parameters=parameters, facts={**base.facts, "structure": facts})


def _units_of(decoder: Decoder, recipe: StructuredRecipe, base: Variant, progress: Progress) -> list[Units]:
    sublayers = [each for each in decoder.sublayers if each.kind in recipe.KINDS and each.label not in base.dropped]
    calls = probe_calls(decoder, sublayers)
    groups: list[Units] = []
    progress.start(f"prune {recipe.name}", len(sublayers))
    for sublayer in sublayers:
        call = calls[sublayer.label]
        with sublayer.on_device():
            if sublayer.kind == "mlp":
                groups += neurons_of(sublayer, call, decoder.width)
            else:
                groups += heads_of(sublayer, call, decoder.width, head_count(decoder))
        progress.advance()
    progress.done()
    if not any(units.kind == "heads" for units in groups) and "attn" in recipe.KINDS:
        raise InputError(f"recipe {recipe.name}: the model has no attention with heads; use neurons-, weight or drops")
    return groups


def _moments(
    decoder: Decoder, recipe: StructuredRecipe, groups: Sequence[Units], statistics: Statistics, base: Variant
) -> Mapping[str, ActivationMoments]:
    """Return moments by name of the reader, known or measured on the model that earlier recipes left."""
    readers = {units.reader.name: units.reader for units in groups}
    if base.is_dense:
        known = known_moments(recipe, statistics)
        if known is None:
            raise InputError(f"recipe {recipe.name} needs activation_stats; materialise it first")
        moments = known
    else:
        moments = {}
        tokens = statistics.require_tokens(recipe)
        with swap_outer_parameters(decoder, base):
            streams = Streams(decoder, tokens, statistics.dtype)
            for index, layer in enumerate(decoder.layers):
                names = (name for sublayer in layer.sublayers for name in sublayer.matrices if name in readers)
                with apply_to_layer(layer, base):
                    moments |= streams.measure(index, {name: readers[name] for name in names}, advances=True)
    for missing in (name for name in readers if name not in moments):
        raise InputError(
            f"recipe {recipe.name}: no calibration token reached {missing}; raise calibration.sequences, "
            "or use the magnitude score"
        )
    return moments


def _weight(units: Units, name: str, base: Variant) -> Float[Tensor, "out in"]:
    """Return a matrix as earlier recipes left it, float32."""
    dense = units.sublayer.matrices[name].weight
    return (base.changes[name].weight(dense) if name in base.changes else dense).float()


def _scores(
    units: Units, recipe: StructuredRecipe, base: Variant, moments: Mapping[str, ActivationMoments]
) -> Float[Tensor, " units"]:
    """Return the score of every unit, float64 on the CPU; see `StructuredRecipe.score`."""
    weight = _weight(units, units.reader.name, base)
    squares = weight.square().sum(dim=0, dtype=torch.float64).cpu()
    if recipe.score == "magnitude":
        total = squares[units.columns].sum(dim=1)
        for name, rows in units.rows.items():
            row_squares = _weight(units, name, base).square().sum(dim=1, dtype=torch.float64).cpu()
            total += row_squares[rows].sum(dim=1)
        scores = total.sqrt()
    else:
        mean, second = moments[units.reader.name].mean.cpu(), moments[units.reader.name].second_moment.cpu()
        if recipe.score == "wanda":
            channels = weight.abs().sum(dim=0, dtype=torch.float64).cpu() * second.sqrt()
        else:
            channels = squares * (second - mean.square()).clamp(min=0)
        scores = channels[units.columns].sum(dim=1)
    require_finite(scores, f"{units.reader.name}: a score")
    return scores


def _keep_uniformly(
    recipe: StructuredRecipe, groups: Sequence[Units], scores: Sequence[Tensor]
) -> list[Bool[Tensor, " units"]]:
    keeps = []
    for units, own in zip(groups, scores, strict=True):
        removed = round(recipe.share * units.count)
        if not 0 < removed < units.count:
            raise InputError(
                f"recipe {recipe.name}: {recipe.share:.4g} of the {units.count} {units.kind} that {units.reader.name} "
                f"reads are {removed}; choose a share that leaves some and removes some"
                if units.count > 1
                else f"recipe {recipe.name}: {units.reader.name} reads one group of heads, which must stay"
            )
        keeps.append(keep_share(own[None], recipe.share, "output")[0])
    return keeps


def _keep_globally(
    recipe: StructuredRecipe, groups: Sequence[Units], scores: Sequence[Tensor]
) -> list[Bool[Tensor, " units"]]:
    """Remove units below one threshold of standardised scores, as close as possible to the share of all weights.

    The best unit of each module stays, so that a smaller model remains (2312.11983 §3.3 has no such rule).
    """
    standardised = []
    for own in scores:
        spread = own.std(correction=1) if len(own) > 1 else own.new_zeros(())
        rank = (own - own.mean()) / spread if spread > 0 else torch.zeros_like(own)
        rank[own.argmax()] = torch.inf
        standardised.append(rank)
    ranks = torch.cat(standardised)
    order = [index for index in torch.argsort(ranks, stable=True).tolist() if ranks[index] < torch.inf]
    weights = torch.tensor([units.weights for units in groups for _ in range(units.count)], dtype=torch.float64)
    target = recipe.share * float(weights.sum())
    removed = torch.cat([torch.zeros(1, dtype=torch.float64), weights[order].cumsum(dim=0)])
    count = int((removed - target).abs().argmin())
    keep = torch.ones(len(ranks), dtype=torch.bool)
    keep[order[:count]] = False
    return list(keep.split([units.count for units in groups]))


def _masks(units: Units, keep: Bool[Tensor, " units"]) -> dict[str, Tensor]:
    """Return masks of the reader's columns and of the rows that feed them, by matrix name."""
    reader = torch.ones(units.reader.shape, dtype=torch.bool)
    reader[:, units.columns[~keep].flatten()] = False
    masks = {units.reader.name: reader}
    for name, rows in units.rows.items():
        mask = torch.ones(units.sublayer.matrices[name].shape, dtype=torch.bool)
        mask[rows[~keep].flatten()] = False
        masks[name] = mask
    return masks


def _compensating_bias(
    units: Units,
    recipe: StructuredRecipe,
    keep: Bool[Tensor, " units"],
    base: Variant,
    moments: Mapping[str, ActivationMoments],
) -> tuple[str, Tensor]:
    """Return the name and value of the reader's bias plus the removed inputs' mean contribution (2312.11983 §3.4)."""
    reader = units.reader
    if reader.expert is not None:
        raise InputError(f"recipe {recipe.name}: {reader.name} has no bias of its own; set `compensate: false`")
    name = f"{reader.name}.bias"
    module: Any = units.sublayer.modules[reader.name]
    before = base.parameters.get(name, module.bias)
    weight = _weight(units, reader.name, base).double().cpu()
    removed = units.columns[~keep].flatten()
    added = weight[:, removed] @ moments[reader.name].mean.cpu()[removed]
    bias = added if before is None else before.double().cpu() + added
    return name, bias.to(reader.parameter.dtype)
