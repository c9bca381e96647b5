"""Repair of a variant in closed form, layer by layer: which states are regressed, and where the solutions go.

The regressions themselves are in `methods/regression.py`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.metrics.divergence import divergence
from prunescope.pipelines.metrics.mean_interval import Numbers, interval
from prunescope.pipelines.models.decoder import Decoder, Layer, probe_tokens
from prunescope.pipelines.models.module_calls import hooks, watch_stream
from prunescope.pipelines.models.sublayer import watch_all
from prunescope.pipelines.models.weight_offload import on_device
from prunescope.pipelines.pruning.calibration.layerwise_forward import BATCH, Streams
from prunescope.pipelines.pruning.methods.regression import ChannelSums, MapSums
from prunescope.pipelines.pruning.output_projection import PROBE_TOKENS
from prunescope.pipelines.pruning.pruning_inputs import Statistics
from prunescope.pipelines.pruning.repair_target import RepairTarget
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import (
    apply_to_layer,
    apply_variant,
    swap_outer_parameters,
)
from prunescope.pipelines.recipes import RepairRecipe

# This many tokens are held out, rounded up to whole sequences, but at most this share of the sequences.
_HELD_OUT_TOKENS, _HELD_OUT_SHARE = 1024, 0.25
# Two sequences are the fewest that have an interval.
_LEAST_HELD_OUT = 2
# A sequence that shares this many consecutive tokens with a held-out one is not fitted: windows may overlap.
_COMMON_RUN = 16

Tokens = Int[Tensor, "sequences length"]


@torch.inference_mode()
def repair(
    decoder: Decoder, recipe: RepairRecipe, statistics: Statistics, base: Variant, progress: Progress = SILENT
) -> Variant:
    """Fit every changed sublayer of a variant to the dense model, from the first layer to the last.

    The result is the base with scaled projections, new biases and substitutes, and the fact `repair`; the base itself
    if all contributions equal the dense ones.

    Raises:
        InputError: there are no tokens, or the probe shows that parameters cannot scale a sublayer's output.
        ComputationError: an activation is NaN or infinite.
    """
    tokens = statistics.require_tokens(recipe)
    changed = [sublayer for sublayer in decoder.sublayers if base.changed(sublayer)]
    if not changed:
        return base
    fitted, held_out, unchecked = split(tokens)
    with swap_outer_parameters(decoder, base):
        streams = Streams(decoder, fitted, statistics.dtype)
    dense_streams = Streams(decoder, fitted, statistics.dtype) if base.parameters else streams.copy()
    calls = decoder.calls_of(changed, probe_tokens(decoder, PROBE_TOKENS))
    variant, unbiased = base, list[str]()
    progress.start(f"repair {recipe.name}", len(decoder.layers), 2 * fitted.numel())
    for index, layer in enumerate(decoder.layers):
        with on_device(layer.module):
            own = [sublayer for sublayer in layer.sublayers if sublayer.label in calls]
            dense = _advance_dense(index, layer, dense_streams, [sublayer.label for sublayer in own])
            for sublayer in own:
                target = RepairTarget(decoder, sublayer, calls[sublayer.label])
                variant = _repair(index, layer, target, streams, dense, recipe, variant)
                if not target.takes_bias and sublayer.label not in base.dropped:
                    unbiased.append(sublayer.label)
            with swap_outer_parameters(decoder, base), apply_to_layer(layer, variant):
                streams.advance(index)
        progress.advance()
    progress.done()
    if variant is base:
        return base
    facts = {"tokens_fitted": fitted.numel()} | checked(decoder, base, variant, held_out, unchecked)
    if recipe.bias and unbiased:
        facts["without_bias"] = unbiased
    return replace(variant, facts={**base.facts, "repair": facts})


def split(tokens: Tokens) -> tuple[Tokens, Tokens, str | None]:
    """Return the sequences to fit, the held-out ones, and the reason if there are none of these.

    A held-out sequence shares no run of 16 tokens with any other.

    The last sequences are held out: 1,024 tokens and at least two sequences, but at most a quarter of all. None are if
    there are too few, or if more than half of the others have a run in common with them.
    """
    count, length = tokens.shape
    size = min(max(_LEAST_HELD_OUT, -(-_HELD_OUT_TOKENS // length)), int(_HELD_OUT_SHARE * count))
    if size < _LEAST_HELD_OUT:
        least = int(_LEAST_HELD_OUT / _HELD_OUT_SHARE)
        return tokens, tokens[:0], f"fewer than {least} calibration sequences; raise `calibration.sequences`"
    run = min(_COMMON_RUN, length)

    def runs(row: int) -> Iterator[bytes]:
        return (each.numpy().tobytes() for each in tokens[row].unfold(0, run, 1))

    held_out, known = list[int](), set[bytes]()
    for row in reversed(range(count)):
        if len(held_out) < size and known.isdisjoint(runs(row)):
            held_out.insert(0, row)
            known.update(runs(row))
    fitted = [row for row in range(count) if known.isdisjoint(runs(row))]
    # With a single one held out, all others overlap it.
    if 2 * len(fitted) < count - size:
        return tokens, tokens[:0], "the calibration sequences overlap; choose a longer `calibration.source`"
    return tokens[fitted], tokens[held_out], None


def _advance_dense(index: int, layer: Layer, streams: Streams, labels: Collection[str]) -> list[dict[str, Tensor]]:
    """Advance the dense streams by a layer, and return those after some of its sublayers, batch by batch."""
    kept = []
    with _recorded(layer) as (added, _):
        for batch, after in enumerate(streams.outputs(index)):
            kept.append({label: _stream_after(label, layer, streams.states[batch], added) for label in labels})
            streams.states[batch] = after
    return kept


def _stream_after(label: str, layer: Layer, before: Tensor, added: Mapping[str, Tensor]) -> Tensor:
    """Return the stream after a sublayer; in a parallel layer, as if attention came first."""
    stream = before.float() + added[layer.attn.label].float()
    return stream if label == layer.attn.label else stream + added[label].float()


@contextmanager
def _recorded(layer: Layer) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Record what the sublayers of a layer add and what they read in its latest call, by label."""
    added: dict[str, Tensor] = {}
    read: dict[str, Tensor] = {}

    handles = watch_all(layer.sublayers, added.__setitem__)
    for sublayer in layer.sublayers:
        handles.append(watch_stream(sublayer.parts[0].chain[0], partial(read.__setitem__, sublayer.label)))
    with hooks(*handles):
        yield added, read


def _repair(
    index: int,
    layer: Layer,
    target: "RepairTarget",
    streams: Streams,
    dense: Sequence[Mapping[str, Tensor]],
    recipe: RepairRecipe,
    variant: Variant,
) -> Variant:
    """Return the variant with one more sublayer repaired; `dense` has the streams that should follow it."""
    label = target.sublayer.label
    channels, maps = ChannelSums(), MapSums(recipe.rank)
    outer = swap_outer_parameters(target.decoder, variant)
    with outer, apply_to_layer(layer, variant), _recorded(layer) as (added, read):
        for right, before, _ in zip(dense, streams.states, streams.outputs(index), strict=True):
            error = (right[label].double() - _stream_after(label, layer, before, added).double()).flatten(0, 1)
            channels.update(added[label].to(error).reshape(error.shape), error)
            if label in variant.dropped:
                maps.update(read[label].to(error).reshape(len(error), -1), error)
    if not channels.is_moved:
        return variant
    if label not in variant.dropped:
        has_bias = recipe.bias and target.takes_bias
        return target.repaired(variant, *channels.solve(recipe.damping, has_bias=has_bias))
    if not recipe.bias:
        return variant
    substitute = maps.solve(recipe.map_damping).to("cpu", target.decoder.dtype)
    return replace(variant, substitutes={**variant.substitutes, label: substitute})


def checked(
    decoder: Decoder, before: Variant, after: Variant, held_out: Tokens, unchecked: str | None
) -> dict[str, Any]:
    """Return what a repair's facts say of held-out tokens: the KL without and with it, and whether it is lower.

    The difference is paired, and its interval is Student's over sequences. `unchecked` is the reason if no tokens are
    held out.
    """
    unchecked = "the model has no LM head" if decoder.output is None else unchecked
    if unchecked is not None:
        return {"tokens_held_out": 0, "note": f"not checked: {unchecked}"}
    unrepaired, repaired = sequence_divergences(decoder, [before, after], held_out)
    low, difference, high = interval(repaired - unrepaired)
    means = float(unrepaired.mean()), float(repaired.mean())
    verb = "lowers" if high < 0 else "does not lower" if low >= 0 else "has too little evidence that it lowers"
    return {
        "tokens_held_out": held_out.numel(),
        "kl_unrepaired_nats": means[0],
        "kl_repaired_nats": means[1],
        "kl_difference_nats": difference,
        "kl_difference_low": low,
        "kl_difference_high": high,
        "note": f"on held-out text it {verb} the KL ({means[0]:.3g} to {means[1]:.3g} nats, {difference:+.2g} "
        f"[{low:+.2g}, {high:+.2g}]); the recipes before it may have been fitted on this text",
    }


@torch.inference_mode()
def sequence_divergences(decoder: Decoder, variants: Sequence[Variant], tokens: Tokens) -> list[Numbers]:
    """Return each variant's KL(dense ‖ variant) per sequence, averaged over its positions, in nats.

    Raises:
        ComputationError: a variant's states are NaN or infinite.
    """
    batches = [batch.to(decoder.device) for batch in tokens.split(decoder.at_once(BATCH))]
    dense = torch.cat([decoder.hidden(batch).flatten(0, 1).float() for batch in batches])
    means = []
    for variant in variants:
        with apply_variant(decoder, variant):
            own = torch.cat([decoder.hidden(batch).flatten(0, 1).float() for batch in batches])
        if not bool(own.isfinite().all()):
            raise ComputationError("NaN or infinite states on the held-out calibration tokens")
        columns = divergence(dense, own - dense, decoder.head, (1.0,))
        means.append(columns["kl_dense_pruned_nats"].reshape(tokens.shape).mean(axis=1, dtype="float64"))
    return means
