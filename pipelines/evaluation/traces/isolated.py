"""Shift of the final stream when one sublayer is swapped and dense layers run on top, or the other way around."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.evaluation.traces.activation_capture import Capture, States, replay, run_known
from prunescope.pipelines.metrics.rounding import distance, is_close, is_same, other_rounding
from prunescope.pipelines.models.decoder import Decoder, Layer
from prunescope.pipelines.models.float64_pass import cast_floats
from prunescope.pipelines.models.module_calls import Arguments, call_with_state, hooks, stream_of
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant

Batch = Float[Tensor, "entries positions width"]
# Label of a sublayer, and name of its replacement; several swaps of one sublayer are separate entries.
Swap = tuple[str, str]


class IsolatedEffect:
    """Runner of the dense layers above single swapped sublayers, many swaps per batch.

    The shift of the final stream is the local shift plus a difference for every later sublayer, summed in float64: its
    contribution on the shifted stream minus that on the dense stream. Final streams are never subtracted, because
    they are much longer than their difference. Matrix products of different shapes may round differently (with MKL,
    only those with fewer than 16 rows did). Therefore the dense stream is one entry of every batch, and both
    contributions come from one call. The remaining error is the rounding of the model's own type, about u(‖stream‖ +
    ‖contribution‖) per sublayer with u = 6e-8 in float32 and 4e-3 in bfloat16. On SmolLM2-135M in float32, local shifts
    of a tenth of the contribution arrive with a relative error between 5e-5 (median) and 6e-3 (first token, whose
    stream is 1e4 times as long as a contribution). A run of the whole pruned model has the same error.

    If every sublayer is changed, a prompt costs about half as many passes as there are sublayers. The shifts before, in
    and after a layer take positions × width × swaps × 24 bytes, besides one layer's activations of `rows` tokens.

    Not thread-safe: the decoder's modules have hooks during a run.

    `rows` are the tokens per call of a layer, dense entry included. Fewer need less memory; more are faster, up to the
    size at which matrix products are fastest. A longer sequence runs with one swapped entry at a time.
    """

    def __init__(self, decoder: Decoder, rows: int = 1024) -> None:
        self._decoder, self._rows = decoder, rows
        # Per layer, whether a batch gives the same as its entries alone; tested when the layer first runs.
        self._can_batch: dict[int, bool] = {}

    @torch.inference_mode()
    def shifts(self, dense: Capture, moved: Mapping[Swap, States]) -> dict[Swap, States]:
        """Return the shift of the final residual stream that each swapped sublayer causes on its own.

        `dense` is a pass over all tokens at once that kept its calls. `moved` has the local shift of each swapped
        sublayer at all positions: its contribution in the dense context minus the dense contribution. The shifts are at
        all positions, before the final norm, float32; exactly zero if the local shift is zero.

        Raises:
            ComputationError: a layer called again on the dense stream gives another contribution.
        """
        if not moved:
            return {}
        is_moved = dict(zip(moved, torch.stack([move.any() for move in moved.values()]).tolist(), strict=True))
        shifts: dict[Swap, Tensor] = {}  # of the stream, (positions, width), float64
        for index, layer in enumerate(self._decoder.layers):
            labels = {sublayer.label for sublayer in layer.sublayers}
            own = [swap for swap in moved if swap[0] in labels and is_moved[swap]]
            # A swapped attention of a sequential layer changes the input of the MLP. All other swaps act after the
            # layer.
            inside = [] if layer.is_parallel else [swap for swap in own if swap[0] == layer.attn.label]
            if shifts or inside:
                before = torch.stack([*shifts.values(), *(moved[swap].double() for swap in inside)])
                after = self._through(index, dense, before, len(shifts))
                shifts = dict(zip([*shifts, *inside], after, strict=True))
            shifts |= {swap: moved[swap].double() for swap in own if swap not in inside}
        return {
            swap: shifts[swap].float() if swap in shifts else torch.zeros_like(move) for swap, move in moved.items()
        }

    def _through(
        self, index: int, dense: Capture, shifts: Float[Tensor, "entries positions width"], outside: int
    ) -> Float[Tensor, "entries positions width"]:
        """Return the shifts after a layer; those from index `outside` on belong to its own attention's contribution."""
        layer, call = self._decoder.layers[index], dense.layer_calls[index]
        if index not in self._can_batch:
            self._can_batch[index] = _can_batch(layer, call, dense)
        stream = stream_of(*call)
        size = max(1, self._rows // stream.shape[1] - 1)
        after = torch.empty_like(shifts)
        for start in range(0, len(shifts), size):
            chunk = shifts[start : start + size]
            before = max(0, min(outside - start, len(chunk)))  # entries whose stream is shifted before the layer
            streams = torch.cat(
                [
                    stream,
                    (stream.double() + chunk[:before]).to(stream.dtype),
                    stream.expand(len(chunk) - before, -1, -1),
                ]
            )
            swap = {entry + 1: chunk[entry].to(stream.dtype) for entry in range(before, len(chunk))}
            attn, mlp = self._added(index, call, streams, swap)
            moves = chunk + (mlp[1:].double() - mlp[0].double())
            moves[:before] += attn[1 : before + 1].double() - attn[0].double()
            after[start : start + size] = moves
        return after

    def _added(self, index: int, call: Arguments, streams: Batch, swap: dict[int, Tensor]) -> tuple[Batch, Batch]:
        layer = self._decoder.layers[index]
        if self._can_batch[index]:
            return _contributions(layer, call, streams, swap)
        alone = [
            _contributions(layer, call, stream, {0: swap[entry]} if entry in swap else {})
            for entry, stream in enumerate(streams.split(1))
        ]
        attn, mlp = zip(*alone, strict=True)
        return torch.cat(attn), torch.cat(mlp)


def _contributions(layer: Layer, call: Arguments, streams: Batch, swap: Mapping[int, Tensor]) -> tuple[Batch, Batch]:
    """Return the contributions of a layer's attention and MLP on each stream.

    `call` has the layer's arguments on the dense stream; `streams` replaces the state. `swap` has, per entry, the shift
    to add to the attention's contribution before the MLP reads it.
    """
    added: dict[str, Tensor] = {}

    def attn(contribution: Tensor) -> Tensor | None:
        added["attn"] = contribution
        if not swap:
            return None
        moved = contribution.clone()
        for entry, shift in swap.items():
            moved[entry] += shift.to(moved.device)
        return moved

    with hooks(*layer.attn.watch(attn), *layer.mlp.watch(partial(added.__setitem__, "mlp"))):
        call_with_state(layer.module, *call, streams)
    return added["attn"].to(streams.device), added["mlp"].to(streams.device)


def _can_batch(layer: Layer, call: Arguments, dense: Capture) -> bool:
    """Run two sequences with the arguments of one; return whether the batch gives the same as each sequence alone.

    Most arguments are broadcast over the batch; some (ALiBi biases by entry and head) are not.
    """
    stream = stream_of(*call)
    again = _contributions(layer, call, stream, {})
    # The rounding of this layer alone: the rounding of earlier layers is in the stream.
    with other_rounding(layer.module):
        rounding = max(map(distance, _contributions(layer, call, stream, {}), again))
    for sublayer, contribution in zip(layer.sublayers, again, strict=True):
        # The pass kept it as float32; the model's own type bounds the rounding.
        truth = dense.whole[sublayer.label].to(contribution.dtype)
        if not is_same(contribution[0], truth, rounding):
            raise ComputationError(
                f"{sublayer.name}: called again on the same stream, it gives another output; leave out scope isolated"
            )
    other = stream.flip(-1)
    try:
        together = _contributions(layer, call, torch.cat([stream, other]), {})
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError):  # raised by modules if shapes do not match
        return False
    alone = map(torch.cat, zip(again, _contributions(layer, call, other, {}), strict=True))
    return all(is_close(*pair, rounding) for pair in zip(together, alone, strict=True))


@torch.inference_mode()
def restoring_shifts(
    decoder: Decoder, isolation: IsolatedEffect, variant: Variant, tokens: Int[Tensor, "1 tokens"]
) -> dict[str, States]:
    """Return how much the final stream of a variant moves if one of its changed sublayers is dense again, by label.

    It is scope `isolated` with the two models exchanged: the variant's layers run on top of one dense sublayer. The
    shifts are at all positions, before the final norm, float32, computed in the model's own type.
    """
    with apply_variant(decoder, variant, skips=False):
        pruned = run_known(decoder, tokens, 0, by_token_from=None, keep_calls=True)
    moved = {}
    for sublayer in decoder.sublayers:
        if variant.moves(sublayer):
            # Noise may have run the variant in another type.
            recorded, whole = pruned.calls[sublayer.label], pruned.whole[sublayer.label]
            calls = [replace(call, parts=cast_floats(call.parts, decoder.dtype)) for call in recorded]
            with sublayer.on_device():
                moved[sublayer.label, "dense"] = (replay(sublayer, calls, {}, 0).to(whole.device) - whole).float()
    with apply_variant(decoder, variant, skips=False):
        return {label: shift for (label, _), shift in isolation.shifts(pruned, moved).items()}
