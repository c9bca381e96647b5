"""Removes neurons and heads: their scores, which of them go, their masks, and the bias in their place.

What a unit is and how it is proved stands in `units.py`; really smaller matrices are made where a variant is exported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.weight_matrices import Matrix
from prunescope.pipelines.pruning.calibration.layerwise_forward import Streams
from prunescope.pipelines.pruning.layerwise import worn
from prunescope.pipelines.pruning.masks import keep_share
from prunescope.pipelines.pruning.methods.structured_units import Units, head_count, heads_of, neurons_of, probe_calls
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import outside
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import StructuredRecipe


@dataclass(frozen=True)
class Moments:
    """E[x] and E[x²] of what flows into a matrix, per channel in float64."""

    mean: Float[Tensor, " in"]
    second: Float[Tensor, " in"]


@torch.inference_mode()
def prune_units(
    decoder: Decoder,
    recipe: StructuredRecipe,
    activation_stats: pl.DataFrame | None,
    tokens: Int[Tensor, "sequences length"] | None,
    base: Variant,
    progress: Progress = SILENT,
    dtype: torch.dtype | None = None,
) -> Variant:
    """Removes the recipe's units from what earlier recipes left.

    Args:
        decoder: the dense model; its weights are read, not changed.
        recipe: which units, how many, and what is kept.
        activation_stats: rows of that table of the dense model; read where nothing was changed before.
        tokens: calibration tokens, on which the model that earlier recipes left is measured again.
        base: what they did. Units whose weights are all zero already score lowest and go first.
        progress: one step a layer.
        dtype: type in which the tokens pass the layers; None is the model's own.

    Returns:
        The base with rows and columns of the removed units masked, and with biases where the recipe compensates. Its
        fact `structure` tells, by name of the matrix that reads them, which units are gone.

    Raises:
        InputError: units are not proved, the share removes none or all of a module's, or a statistic is missing.
        ComputationError: a score is NaN or infinite.
    """
    units = _found(decoder, recipe, base, progress)
    moments = _moments(decoder, recipe, units, activation_stats, tokens, base, dtype) if recipe.needs else {}
    scores = [_scores(each, recipe, base, moments) for each in units]
    kept = (
        _kept_uniformly(recipe, units, scores) if recipe.ratios == "uniform" else _kept_globally(recipe, units, scores)
    )
    changes, parameters = dict(base.changes), dict(base.parameters)
    facts: dict[str, Any] = dict(base.facts.get("structure", {}))
    for each, keep in zip(units, kept, strict=True):
        if recipe.compensate:
            name, bias = _compensated(each, recipe, keep, base, moments)
            parameters[name] = bias
        for name, mask in _masks(each, keep).items():
            matrix = each.sublayer.matrices[name]
            before = base.changes.get(name)
            earlier = None if before is None else before.mask
            change = WeightDelta.masked(mask if earlier is None else mask & earlier)
            changes[name] = change if before is None else before.then(change, matrix.weight)
        facts[each.reader.name] = _fact(each, keep, facts.get(each.reader.name, {}).get("removed", []))
    return replace(base, changes=changes, parameters=parameters, facts={**base.facts, "structure": facts})


def _found(decoder: Decoder, recipe: StructuredRecipe, base: Variant, progress: Progress) -> list[Units]:
    chosen = [each for each in decoder.sublayers if each.kind in recipe.KINDS and each.label not in base.dropped]
    calls = probe_calls(decoder, chosen)
    width = decoder.width
    units: list[Units] = []
    progress.start(f"prune {recipe.name}", len(chosen))
    for each in chosen:
        with each.on_device():
            if each.kind == "mlp":
                units += neurons_of(each, calls[each.label], width)
            else:
                units += heads_of(each, calls[each.label], width, head_count(decoder))
        progress.advance()
    progress.done()
    if not any(each.kind == "heads" for each in units) and "attn" in recipe.KINDS:
        raise InputError(f"recipe {recipe.name}: the model has no attention with heads; use neurons-, weight or drops")
    return units


def _moments(
    decoder: Decoder,
    recipe: StructuredRecipe,
    units: Sequence[Units],
    activation_stats: pl.DataFrame | None,
    tokens: Int[Tensor, "sequences length"] | None,
    base: Variant,
    dtype: torch.dtype | None,
) -> dict[str, Moments]:
    """By name of the reader: from the table, or measured on the model that earlier recipes left."""
    names = [each.reader.name for each in units]
    if base.is_dense:
        if activation_stats is None:
            raise InputError(f"recipe {recipe.name} needs activation_stats; materialise it first")
        rows = activation_stats.filter(pl.col("module").cast(pl.String).is_in(names))
        found = {
            row["module"]: Moments(
                torch.tensor(row["mean"], dtype=torch.float64), torch.tensor(row["second_moment"], dtype=torch.float64)
            )
            for row in rows.iter_rows(named=True)
        }
    else:
        if tokens is None or not tokens.numel():
            raise InputError(f"recipe {recipe.name} needs calibration tokens")
        found = _measured(decoder, {each.reader.name: each.reader for each in units}, tokens, base, dtype)
    missing = next((name for name in names if name not in found), None)
    if missing is not None:
        raise InputError(
            f"recipe {recipe.name}: no calibration token reached {missing}; raise calibration.sequences, "
            "or use the magnitude score"
        )
    return found


def _measured(
    decoder: Decoder,
    readers: Mapping[str, Matrix],
    tokens: Int[Tensor, "sequences length"],
    base: Variant,
    dtype: torch.dtype | None,
) -> dict[str, Moments]:
    found = {}
    with outside(decoder, base):
        streams = Streams(decoder, tokens, dtype)
        states = streams.begin()
        for index, layer in enumerate(decoder.layers):
            own = {name: each for part in layer.sublayers for name, each in part.matrices.items() if name in readers}
            with worn(layer, base):
                for name, inputs in streams.measure(index, states, own, advances=True).items():
                    found[name] = Moments(inputs.mean, inputs.second_moment)
    return found


def _weight(units: Units, name: str, base: Variant) -> Float[Tensor, "out in"]:
    """A matrix as earlier recipes left it, float32."""
    dense = units.sublayer.matrices[name].weight
    return (base.changes[name].weight(dense) if name in base.changes else dense).float()


def _scores(
    units: Units, recipe: StructuredRecipe, base: Variant, moments: Mapping[str, Moments]
) -> Float[Tensor, " units"]:
    """What every unit is kept for, float64 on the CPU; see `recipes.structure.Structured.score`."""
    weight = _weight(units, units.reader.name, base)
    squares = weight.square().sum(dim=0, dtype=torch.float64).cpu()
    if recipe.score == "magnitude":
        total = squares[units.columns].sum(dim=1)
        for name, rows in units.rows.items():
            own = _weight(units, name, base).square().sum(dim=1, dtype=torch.float64).cpu()
            total += own[rows].sum(dim=1)
        scores = total.sqrt()
    else:
        seen = moments[units.reader.name]
        if recipe.score == "wanda":
            channels = weight.abs().sum(dim=0, dtype=torch.float64).cpu() * seen.second.sqrt()
        else:
            channels = squares * (seen.second - seen.mean.square()).clamp(min=0)
        scores = channels[units.columns].sum(dim=1)
    if not bool(scores.isfinite().all()):
        raise ComputationError(f"{units.reader.name}: a score is NaN or infinite: weights or activations are damaged")
    return scores


def _kept_uniformly(
    recipe: StructuredRecipe, units: Sequence[Units], scores: Sequence[Tensor]
) -> list[Bool[Tensor, " units"]]:
    kept = []
    for each, own in zip(units, scores, strict=True):
        removed = round(recipe.share * each.count)
        if not 0 < removed < each.count:
            raise InputError(
                f"recipe {recipe.name}: {recipe.share:.4g} of the {each.count} {each.kind} that {each.reader.name} "
                f"reads are {removed}; choose a share that leaves some and removes some"
                if each.count > 1
                else f"recipe {recipe.name}: {each.reader.name} reads one group of heads; it has none to spare"
            )
        kept.append(keep_share(own[None], recipe.share, "output")[0])
    return kept


def _kept_globally(
    recipe: StructuredRecipe, units: Sequence[Units], scores: Sequence[Tensor]
) -> list[Bool[Tensor, " units"]]:
    """Units under one threshold of standardised scores, as near as can be to the share of all units' weights.

    Each module's best unit stays, so that there is a smaller model (2312.11983 §3.3 has no such rule).
    """
    places = [(module, unit) for module, each in enumerate(units) for unit in range(each.count)]
    ranks = torch.cat([_standardised(own) for own in scores])
    for module, own in enumerate(scores):
        best = sum(each.count for each in units[:module]) + int(own.argmax())
        ranks[best] = torch.inf
    order = [place for place in torch.argsort(ranks, stable=True).tolist() if ranks[place] < torch.inf]
    weights = torch.tensor([units[module].weights for module, _ in places], dtype=torch.float64)
    target = recipe.share * float(weights.sum())
    reached = torch.cat([torch.zeros(1, dtype=torch.float64), weights[order].cumsum(dim=0)])
    count = int((reached - target).abs().argmin())
    kept = [torch.ones(each.count, dtype=torch.bool) for each in units]
    for place in order[:count]:
        module, unit = places[place]
        kept[module][unit] = False
    return kept


def _standardised(scores: Tensor) -> Tensor:
    """(s − mean)/standard deviation; equal scores are all average."""
    spread = scores.std(correction=1) if len(scores) > 1 else scores.new_zeros(())
    return (scores - scores.mean()) / spread if spread > 0 else torch.zeros_like(scores)


def _masks(units: Units, keep: Bool[Tensor, " units"]) -> dict[str, Tensor]:
    """Masks of the reader's columns and of the rows that feed it, by matrix name."""
    gone = ~keep
    reader = torch.ones(units.reader.shape, dtype=torch.bool)
    reader[:, units.columns[gone].flatten()] = False
    masks = {units.reader.name: reader}
    for name, rows in units.rows.items():
        mask = torch.ones(units.sublayer.matrices[name].shape, dtype=torch.bool)
        mask[rows[gone].flatten()] = False
        masks[name] = mask
    return masks


def _compensated(
    units: Units,
    recipe: StructuredRecipe,
    keep: Bool[Tensor, " units"],
    base: Variant,
    moments: Mapping[str, Moments],
) -> tuple[str, Tensor]:
    """Name and value of the reader's bias with what the removed inputs add on average (2312.11983 §3.4)."""
    reader = units.reader
    if reader.expert is not None:
        raise InputError(f"recipe {recipe.name}: {reader.name} has no bias of its own; set `compensate: false`")
    name = f"{reader.name}.bias"
    module: Any = units.sublayer.modules[reader.name]
    before = base.parameters.get(name, module.bias)
    weight = _weight(units, reader.name, base).double().cpu()
    gone = units.columns[~keep].flatten()
    added = weight[:, gone] @ moments[reader.name].mean[gone]
    bias = added if before is None else before.double().cpu() + added
    return name, bias.to(reader.parameter.dtype)


def _fact(units: Units, keep: Bool[Tensor, " units"], earlier: Sequence[int]) -> dict[str, Any]:
    removed = sorted({*earlier, *(~keep).nonzero().flatten().tolist()})
    return {
        "kind": units.kind,
        "layer": units.sublayer.layer,
        "units": units.count,
        "columns_a_unit": units.columns.shape[1],
        "fed_by": list(units.rows),
        "removed": removed,
    }
