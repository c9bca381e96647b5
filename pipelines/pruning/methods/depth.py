"""Depth pruning: the order of removing sublayers or blocks, measured, drawn at random or listed in the recipe."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from operator import add
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.metrics.logit_blocks import BLOCK_ROWS
from prunescope.pipelines.metrics.output_head import OutputHead
from prunescope.pipelines.metrics.vector_metrics import space_metrics
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.module_calls import Arguments, call_with_state, hooks, quick_linears, stream_of
from prunescope.pipelines.models.sublayer import watch_all
from prunescope.pipelines.pruning.calibration.layerwise_forward import BATCH, cast_parameters
from prunescope.pipelines.pruning.calibration.statistics import Influence
from prunescope.pipelines.pruning.pruning_inputs import Statistics, table_for
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.recipes import DepthRecipe

# Tokens per pass of the greedy choice, which stores the stream before every layer.
_MAX_TOKENS = 2048

Tokens = Int[Tensor, "sequences length"]


class Removal(NamedTuple):
    """One removed unit and the score by which it was chosen; None if nothing was measured."""

    label: str
    score: float | None


@torch.inference_mode()
def drop(
    decoder: Decoder, recipe: DepthRecipe, statistics: Statistics, base: Variant, progress: Progress = SILENT
) -> Variant:
    """Remove a recipe's units from the model that earlier recipes left.

    Influences of a dense base are read from `block_influence`. All other scores are measured on the base. The result is
    the base without the units and without changes inside them. Its facts hold the measured order and the score of each
    unit in it; after several drops, those of the last one.

    Raises:
        InputError: the model has too few units, or a statistic is missing.
        ComputationError: an activation or a loss is NaN or infinite.
    """
    remaining = _remaining(decoder, recipe, base)
    if recipe.by == "influence" and base.is_dense:
        influence = table_for(recipe, statistics, "block_influence")
        if influence is None:
            raise InputError(f"recipe {recipe.name} needs block_influence; materialise it first")
        values = {f"{row['unit']}.{row['layer']}": row["influence"] for row in influence.iter_rows(named=True)}
        order = ordered({label: values[label] for label in remaining})
    else:
        order = drop_order(decoder, recipe, statistics, base, progress)
    chosen = {sublayer for label, _ in order[: recipe.count] for sublayer in sublayers_of(label)}
    gone = [each for each in decoder.sublayers if each.label in chosen | {*base.dropped}]
    facts = dict(base.facts)
    if "structure" in facts:
        matrices = {name for each in gone for name in each.matrices}
        facts["structure"] = {name: fact for name, fact in facts["structure"].items() if name not in matrices}
    facts["drop_order"] = [label for label, _ in order]
    facts["drop_scores"] = [score for _, score in order if score is not None]
    return replace(base.without(gone), facts=facts)


@torch.inference_mode()
def drop_order(
    decoder: Decoder, recipe: DepthRecipe, statistics: Statistics, base: Variant, progress: Progress = SILENT
) -> list[Removal]:
    """Return the order in which a recipe removes units, measured on the base.

    The statistics' `order` is the beginning of an iterative or greedy order of a dense base, which is the same for
    every count. Weights below the head are cast to the statistics' dtype in all layers at once. Scores are computed in
    float32 and float64. The progress advances once per measured removal. The order has all remaining units for
    `influence` and `random`; otherwise as many as are removed, even if more are known.

    Raises:
        InputError: the model has too few units, or there are no tokens.
        ComputationError: an activation or a loss is NaN or infinite.
    """
    remaining = _remaining(decoder, recipe, base)
    if recipe.by == "given":
        return [Removal(label, None) for label in recipe.given]
    if recipe.by == "random":
        drawn = torch.randperm(len(remaining), generator=torch.Generator().manual_seed(recipe.seed))
        return [Removal(remaining[index], None) for index in drawn.tolist()]
    tokens, known = statistics.require_tokens(recipe), statistics.order if base.is_dense else ()
    with apply_variant(decoder, base, skips=False), cast_parameters(decoder.trunk.parameters(), statistics.dtype):
        match recipe.by:
            case "influence":
                return ordered(influences(decoder, remaining, tokens))
            case "consecutive":
                first = ordered(angular_distances(decoder, remaining, recipe.count, tokens))[0]
                start = remaining.index(first.label)
                return [Removal(label, first.score) for label in remaining[start : start + recipe.count]]
            case _:
                return _one_by_one(decoder, recipe, remaining, tokens, {*base.dropped}, known, progress)


def _one_by_one(
    decoder: Decoder,
    recipe: DepthRecipe,
    units: Sequence[str],
    tokens: Tokens,
    dropped: set[str],
    known: Sequence[tuple[str, float | None]],
    progress: Progress,
) -> list[Removal]:
    """Choose units one by one, measuring the others again after every removal."""
    order = [Removal(*removal) for removal in known]
    progress.start(f"order of {recipe.name}", max(0, recipe.count - len(order)))
    while len(order) < recipe.count:
        removed = {label for label, _ in order}
        gone = {sublayer for label in removed for sublayer in sublayers_of(label)}
        remaining = [label for label in units if label not in removed]
        with decoder.without(gone, skips=False):
            scores = (
                influences(decoder, remaining, tokens)
                if recipe.by == "iterative"
                else losses(decoder, remaining, tokens, dropped | gone)
            )
        order.append(ordered(scores)[0])
        progress.advance()
    progress.done()
    return order[: recipe.count]


def ordered(scores: Mapping[str, float]) -> list[Removal]:
    """Return units in ascending order of their scores; equal scores keep the mapping's order."""
    return [Removal(label, scores[label]) for label in sorted(scores, key=scores.__getitem__)]


def sublayers_of(label: str) -> tuple[str, ...]:
    """Return the labels of a unit's sublayers; those of `block.3` are `attn.3` and `mlp.3`."""
    kind, _, layer = label.partition(".")
    return (f"attn.{layer}", f"mlp.{layer}") if kind == "block" else (label,)


def influences(decoder: Decoder, units: Sequence[str], tokens: Tokens) -> dict[str, float]:
    """Return 1 − cos of the stream before and after each unit, over all tokens, with the decoder's current weights."""
    influence = Influence(decoder)
    # Calibration uses the same products, so its scores are the same numbers.
    with hooks(*influence.watch()), quick_linears(decoder.model):
        for batch in tokens.split(decoder.at_once(BATCH)):
            decoder.hidden(batch.to(decoder.device))
    means = influence.means
    return {label: means[label] for label in units}


def losses(decoder: Decoder, units: Sequence[str], tokens: Tokens, dropped: set[str]) -> dict[str, float]:
    """Return the mean negative log-likelihood in nats without each unit (SLEB, 2402.09025 §3).

    One pass stores the stream before every layer. For each unit, only the layers from its own on run again. Every token
    except the first of a sequence is scored. The sublayers in `dropped` already add nothing; a layer that has no others
    is skipped.

    Raises:
        InputError: the sequences have one token.
        ComputationError: a loss is NaN or infinite.
    """
    if tokens.shape[1] < 2:
        raise InputError("the greedy choice of drops scores the next token; set calibration.length to 2 or more")
    sums = dict.fromkeys(units, 0.0)
    for batch in tokens.split(max(1, decoder.at_once(_MAX_TOKENS) // tokens.shape[1])):
        ids = batch.to(decoder.device)
        calls = _layer_calls(decoder, ids)
        for label in units:
            gone, start = {*dropped, *sublayers_of(label)}, int(label.partition(".")[2])
            stream = stream_of(*calls[start])
            with decoder.without(sublayers_of(label), skips=False):
                for layer, call in zip(decoder.layers[start:], calls[start:], strict=True):
                    if not {each.label for each in layer.sublayers} <= gone:
                        stream = call_with_state(layer.module, *call, stream)
            sums[label] += _loss(decoder.head, stream[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    scored = tokens.shape[0] * (tokens.shape[1] - 1)
    means = {label: total / scored for label, total in sums.items()}
    for bad in (label for label, loss in means.items() if not np.isfinite(loss)):
        raise ComputationError(f"the calibration loss without {bad} is NaN or infinite")
    return means


def _layer_calls(decoder: Decoder, tokens: Tokens) -> list[Arguments]:
    """Return the arguments of every layer's call, which include the stream before the layer."""
    calls: list[Arguments] = []
    handles = [
        layer.module.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
        for layer in decoder.layers
    ]
    with hooks(*handles):
        decoder.hidden(tokens)
    return calls


def _loss(head: OutputHead, streams: Float[Tensor, "rows width"], targets: Int[Tensor, " rows"]) -> float:
    """Return the sum of −log p(target), computed one block of logits at a time."""
    blocks = zip(streams.split(BLOCK_ROWS), targets.split(BLOCK_ROWS), strict=True)
    losses = (cross_entropy(head.logits(rows.float()), ids, reduction="none") for rows, ids in blocks)
    return sum(float(each.sum(dtype=torch.float64)) for each in losses)


def angular_distances(decoder: Decoder, units: Sequence[str], count: int, tokens: Tokens) -> dict[str, float]:
    """Return the angular distance that `count` consecutive units cause, by the first of them.

    The distance is arccos(cos(x, x + Δ))/π at the last token of each sequence, averaged (2403.17887 §3.2). x is the
    stream before the first unit, Δ the sum of the units' contributions. For blocks, x + Δ is the stream after the last
    one. For attentions or MLPs, the remaining sublayers between them are not counted.
    """
    before, added = _last_tokens(decoder, tokens)
    moves = {label: reduce(add, (added[part] for part in sublayers_of(label))) for label in units}
    distances = {}
    for index, label in enumerate(units[: len(units) - count + 1]):
        layer = int(label.partition(".")[2])
        reads_attn = label.startswith("mlp") and not decoder.layers[layer].is_parallel
        start = before[layer] + added[f"attn.{layer}"] if reads_attn else before[layer]
        # arctan2 of Δ's orthogonal and parallel parts, because arccos loses all digits near cos = 1.
        shift = space_metrics(start, reduce(add, (moves[other] for other in units[index : index + count])))
        distances[label] = float((np.arctan2(shift["orth_rel_h"], 1 + shift["par_rel_h"]) / np.pi).mean())
    if not all(map(np.isfinite, distances.values())):
        raise ComputationError("an activation is NaN or infinite on the calibration tokens")
    return distances


def _last_tokens(decoder: Decoder, tokens: Tokens) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return the stream before every layer and every sublayer's contribution at the last tokens, in float64."""
    before: list[list[Tensor]] = [[] for _ in decoder.layers]
    added = defaultdict[str, list[Tensor]](list)

    def save_stream(index: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before[index].append(stream_of(args, kwargs)[:, -1].double())

    def save_added(label: str, value: Tensor) -> None:
        added[label].append(value[:, -1].double().to(decoder.device))

    handles = [
        layer.module.register_forward_pre_hook(partial(save_stream, index), with_kwargs=True)
        for index, layer in enumerate(decoder.layers)
    ]
    with hooks(*handles, *watch_all(decoder.sublayers, save_added)):
        for batch in tokens.split(decoder.at_once(BATCH)):
            decoder.hidden(batch.to(decoder.device))
    return [torch.cat(parts) for parts in before], {label: torch.cat(parts) for label, parts in added.items()}


def _remaining(decoder: Decoder, recipe: DepthRecipe, base: Variant) -> list[str]:
    """Return the labels of the units left, in forward order; InputError if none would be, or a listed one is gone."""
    units = recipe.units(len(decoder.layers))
    remaining = [label for label in units if not set(sublayers_of(label)) <= {*base.dropped}]
    if recipe.count >= len(remaining):
        raise InputError(
            f"recipe {recipe.name}: of the model's {len(units)} only {len(remaining)} are left after the earlier "
            "recipes; drop fewer"
        )
    for gone in (label for label in recipe.given if label not in remaining):
        raise InputError(f"recipe {recipe.name}: {gone} is already gone; leave it out of the list")
    return remaining
