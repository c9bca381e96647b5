"""In which order sublayers or blocks are removed: by influence, by loss, in a row, at random, or as listed.

How a decoder computes without them is `wearing.py`'s; what becomes of the matrices that stay, other methods'.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.metrics.heads import Head
from prunescope.pipelines.metrics.logit_blocks import BLOCK_ROWS
from prunescope.pipelines.metrics.vector_metrics import space_metrics
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.module_calls import Arguments, call_with_state, hooks, stream_of
from prunescope.pipelines.pruning.calibration.layerwise_forward import BATCH, cast_parameters
from prunescope.pipelines.pruning.calibration.statistics import Influence
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.recipes import DepthRecipe

# Tokens of one pass of the greedy choice, which keeps the stream before every layer.
_KEPT_TOKENS = 2048

Tokens = Int[Tensor, "sequences length"]


class Removal(NamedTuple):
    """One unit and what it was chosen by; None where nothing was measured."""

    label: str
    score: float | None


@torch.inference_mode()
def drop(
    decoder: Decoder,
    recipe: DepthRecipe,
    influence: pl.DataFrame | None,
    tokens: Tokens | None,
    base: Variant,
    progress: Progress = SILENT,
    known: Sequence[tuple[str, float | None]] = (),
    dtype: torch.dtype | None = None,
) -> Variant:
    """Removes the recipe's units from what earlier recipes left.

    Args:
        decoder: the dense model; its weights are read, not changed.
        recipe: what to remove.
        influence: rows of `block_influence` of the dense model; read where nothing was changed before.
        tokens: calibration tokens.
        base: what earlier recipes of a composition did; the choice is made on that model.
        progress: one step a removal that is measured.
        known: what an earlier call of `drop_order` with the same arguments found, whatever its count.
        dtype: as in `drop_order`; the table's influences were measured in it, too.

    Returns:
        The base without them; changes of matrices inside them are gone with them. Its facts tell the order that was
        measured, as far as it was, and the score of each at that time; of several drops those of the last.

    Raises:
        InputError: the model has too few units, or a statistic is missing.
        ComputationError: an activation or a loss is NaN or infinite.
    """
    left = _left(decoder, recipe, base)
    if recipe.by == "influence" and base.is_dense:
        order = ordered(_from_table(recipe, left, influence))
    else:
        order = drop_order(decoder, recipe, tokens, base, known, progress, dtype)
    removed = {part for label, _ in order[: recipe.count] for part in parts_of(label)}
    found = tuple(each.label for each in decoder.sublayers if each.label in removed - {*base.dropped})
    gone = [each for each in decoder.sublayers if each.label in {*base.dropped, *found}]
    matrices = {name for each in gone for name in each.matrices}
    modules = {name for each in gone for name in each.modules}
    facts = dict(base.facts)
    if "structure" in facts:
        facts["structure"] = {name: fact for name, fact in facts["structure"].items() if name not in matrices}
    facts["drop_order"] = [label for label, _ in order]
    facts["drop_scores"] = [score for _, score in order if score is not None]
    return replace(
        base,
        changes={name: change for name, change in base.changes.items() if name not in matrices},
        parameters={name: own for name, own in base.parameters.items() if name.rpartition(".")[0] not in modules},
        dropped=(*base.dropped, *found),
        facts=facts,
    )


@torch.inference_mode()
def drop_order(
    decoder: Decoder,
    recipe: DepthRecipe,
    tokens: Tokens | None,
    base: Variant,
    known: Sequence[tuple[str, float | None]] = (),
    progress: Progress = SILENT,
    dtype: torch.dtype | None = None,
) -> list[Removal]:
    """In which order a recipe removes units, measured on the model that `base` left.

    Args:
        decoder: the dense model.
        recipe: which units, and how they are chosen.
        tokens: calibration tokens.
        base: what earlier recipes did.
        known: the beginning of an iterative or greedy order, which is the same for every count.
        progress: one step a removal that is measured.
        dtype: type of weights and activations below the head while the tokens pass; None is the model's own. All
            layers are cast together. What is read off them is computed in float32 and float64.

    Returns:
        `influence` and `random`: all units that are left; else as many as are removed, whatever is known of more.

    Raises:
        InputError: the model has too few units, or there are no tokens.
        ComputationError: an activation or a loss is NaN or infinite.
    """
    left = _left(decoder, recipe, base)
    if recipe.by == "given":
        return [Removal(label, None) for label in recipe.given]
    if recipe.by == "random":
        drawn = torch.randperm(len(left), generator=torch.Generator().manual_seed(recipe.seed))
        return [Removal(left[place], None) for place in drawn.tolist()]
    if tokens is None or not tokens.numel():
        raise InputError(f"recipe {recipe.name} needs calibration tokens")
    with apply_variant(decoder, base, skips=False), cast_parameters(decoder.trunk.parameters(), dtype):
        match recipe.by:
            case "influence":
                return ordered(influences(decoder, left, tokens))
            case "consecutive":
                turns = turned(decoder, left, recipe.count, tokens)
                first = ordered(turns)[0]
                start = left.index(first.label)
                return [Removal(label, first.score) for label in left[start : start + recipe.count]]
            case _:
                return _one_by_one(decoder, recipe, left, tokens, {*base.dropped}, known, progress)


def _one_by_one(
    decoder: Decoder,
    recipe: DepthRecipe,
    left: Sequence[str],
    tokens: Tokens,
    dropped: set[str],
    known: Sequence[tuple[str, float | None]],
    progress: Progress,
) -> list[Removal]:
    """Measures what is left again after every removal."""
    order = [Removal(*each) for each in known]
    progress.start(f"order of {recipe.name}", max(0, recipe.count - len(order)))
    while len(order) < recipe.count:
        removed = {label for label, _ in order}
        gone = {part for label in removed for part in parts_of(label)}
        still = [label for label in left if label not in removed]
        with decoder.without(gone, skips=False):
            scores = (
                influences(decoder, still, tokens)
                if recipe.by == "iterative"
                else losses(decoder, still, tokens, dropped | gone)
            )
        order.append(ordered(scores)[0])
        progress.advance()
    progress.done()
    return order[: recipe.count]


def ordered(scores: Mapping[str, float]) -> list[Removal]:
    """Units from the least score to the largest; of equal ones the first in the mapping comes first."""
    return [Removal(label, scores[label]) for label in sorted(scores, key=scores.__getitem__)]


def parts_of(label: str) -> tuple[str, ...]:
    """Labels of the sublayers that a unit consists of: `block.3` of `attn.3` and `mlp.3`."""
    kind, _, layer = label.partition(".")
    return (f"attn.{layer}", f"mlp.{layer}") if kind == "block" else (label,)


def influences(decoder: Decoder, units: Sequence[str], tokens: Tokens) -> dict[str, float]:
    """1 − cos between the stream before and behind each unit, over all tokens, of the decoder as it is now."""
    influence = Influence(decoder)
    with influence:
        for batch in tokens.split(BATCH):
            decoder.hidden(batch.to(decoder.device))
    means = influence.means
    return {label: means[label] for label in units}


def losses(decoder: Decoder, units: Sequence[str], tokens: Tokens, dropped: set[str]) -> dict[str, float]:
    """Mean negative log-likelihood in nats without each unit, of the decoder as it is now (SLEB, 2402.09025 §3).

    One pass keeps the stream before every layer; without a unit only the layers from its own on run again.

    Args:
        decoder: the model.
        units: labels.
        tokens: every token but the first of a sequence is scored; at least two a sequence.
        dropped: sublayers that add nothing already; where both of a layer do, it is left out.

    Raises:
        InputError: the sequences have one token.
        ComputationError: a loss is NaN or infinite.
    """
    if tokens.shape[1] < 2:
        raise InputError("the greedy choice of drops scores the next token; set calibration.length to 2 or more")
    sums = dict.fromkeys(units, 0.0)
    for batch in tokens.split(max(1, _KEPT_TOKENS // tokens.shape[1])):
        own = batch.to(decoder.device)
        calls = _layer_calls(decoder, own)
        for label in units:
            stream = _without(decoder, label, calls, dropped)
            sums[label] += _loss(decoder.head, stream[:, :-1].flatten(0, 1), own[:, 1:].flatten())
    scored = tokens.shape[0] * (tokens.shape[1] - 1)
    found = {label: total / scored for label, total in sums.items()}
    bad = next((label for label, loss in found.items() if not np.isfinite(loss)), None)
    if bad is not None:
        raise ComputationError(f"the calibration loss without {bad} is NaN or infinite")
    return found


def _layer_calls(decoder: Decoder, tokens: Tokens) -> list[Arguments]:
    """How every layer is called on some tokens; the stream before it is among the arguments."""
    calls: list[Arguments] = []
    handles = [
        layer.module.register_forward_pre_hook(
            lambda _, args, kwargs: calls.append((args, kwargs)),
            with_kwargs=True,
        )
        for layer in decoder.layers
    ]
    with hooks(*handles):
        decoder.hidden(tokens)
    return calls


def _without(
    decoder: Decoder, label: str, calls: Sequence[Arguments], dropped: set[str]
) -> Float[Tensor, "batch length width"]:
    """The final stream without one unit."""
    gone = {*dropped, *parts_of(label)}
    start = int(label.partition(".")[2])
    stream = stream_of(*calls[start])
    with decoder.without(parts_of(label), skips=False):
        for layer, call in zip(decoder.layers[start:], calls[start:], strict=True):
            if not {each.label for each in layer.sublayers} <= gone:
                stream = call_with_state(layer.module, *call, stream)
    return stream


def _loss(head: Head, streams: Float[Tensor, "rows width"], targets: Int[Tensor, " rows"]) -> float:
    """Sum of −log p(target), a block of logits at a time."""
    blocks = zip(streams.split(BLOCK_ROWS), targets.split(BLOCK_ROWS), strict=True)
    return sum(
        float(cross_entropy(head.logits(rows.float()), ids, reduction="none").sum(dtype=torch.float64))
        for rows, ids in blocks
    )


def turned(decoder: Decoder, units: Sequence[str], count: int, tokens: Tokens) -> dict[str, float]:
    """How far `count` neighbours turn the stream together, by the first of them, of the decoder as it is now.

    The angular distance arccos(cos(x, x + Δ))/π at the last token of each sequence, averaged (2403.17887 §3.2): x is
    the stream before the first, Δ the sum of what they add. Of blocks, x + Δ is the stream behind the last; what
    stands between neighbouring attentions or MLPs and stays is not counted.
    """
    starts: dict[str, list[Tensor]] = {label: [] for label in units}
    adds: dict[str, list[Tensor]] = {label: [] for label in units}
    for batch in tokens.split(BATCH):
        before, added = _last_tokens(decoder, batch)
        for label in units:
            parts = parts_of(label)
            layer = int(label.partition(".")[2])
            start = before[layer]
            if label.startswith("mlp") and not decoder.layers[layer].is_parallel:
                start = start + added[f"attn.{layer}"]
            starts[label].append(start)
            adds[label].append(sum((added[part] for part in parts[1:]), start=added[parts[0]]))
    found = {}
    for place, label in enumerate(units[: len(units) - count + 1]):
        moved = sum(
            (torch.cat(adds[other]) for other in units[place + 1 : place + count]), start=torch.cat(adds[label])
        )
        # The angle from the part of Δ across x and the part along it: arccos loses all digits near cos = 1.
        shift = space_metrics("h", torch.cat(starts[label]), moved)
        found[label] = float((np.arctan2(shift["orth_rel_h"], 1 + shift["par_rel_h"]) / np.pi).mean())
    if not all(map(np.isfinite, found.values())):
        raise ComputationError("an activation is NaN or infinite on the calibration tokens")
    return found


def _last_tokens(decoder: Decoder, tokens: Tokens) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The stream before every layer and what every sublayer adds, at the last token; (batch, width) in float64."""
    before: list[Tensor] = []
    added: dict[str, Tensor] = {}
    handles = [
        layer.module.register_forward_pre_hook(
            lambda _, args, kwargs: before.append(stream_of(args, kwargs)[:, -1].double()),
            with_kwargs=True,
        )
        for layer in decoder.layers
    ]
    for sublayer in decoder.sublayers:
        handles += sublayer.watch(
            lambda value, label=sublayer.label: added.__setitem__(  # type: ignore[misc]
                label, value[:, -1].double().to(decoder.device)
            )
        )
    with hooks(*handles):
        decoder.hidden(tokens.to(decoder.device))
    return before, added


def _left(decoder: Decoder, recipe: DepthRecipe, base: Variant) -> list[str]:
    """Labels of the units that earlier recipes left, in the order in which the stream meets them.

    Raises:
        InputError: not one of them would stay, or a listed one is gone.
    """
    units = recipe.units(len(decoder.layers))
    left = [label for label in units if not set(parts_of(label)) <= {*base.dropped}]
    if recipe.count >= len(left):
        raise InputError(
            f"recipe {recipe.name}: of the model's {len(units)} only {len(left)} are left after the recipes before; "
            "drop fewer"
        )
    gone = next((label for label in recipe.given if label not in left), None)
    if gone is not None:
        raise InputError(f"recipe {recipe.name}: {gone} is gone already; leave it out of the list")
    return left


def _from_table(recipe: DepthRecipe, units: Sequence[str], influence: pl.DataFrame | None) -> dict[str, float]:
    if influence is None:
        raise InputError(f"recipe {recipe.name} needs block_influence; materialise it first")
    found = {f"{row['unit']}.{row['layer']}": row["influence"] for row in influence.iter_rows(named=True)}
    return {label: found[label] for label in units}
