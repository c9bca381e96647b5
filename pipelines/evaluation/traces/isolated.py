"""One sublayer swapped, the dense rest of the model run on top: how far the final stream moves.

The local shift comes from `capture.replay`; final norm, head and measures are the caller's.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.evaluation.traces.activation_capture import Capture, States
from prunescope.pipelines.models.decoder import Decoder, Layer
from prunescope.pipelines.models.module_calls import Arguments, call_with_state, hooks, stream_of

Batch = Float[Tensor, "entries positions width"]
# Relative distance of two results that differ by rounding alone: 1e-5 in float32, 3e-2 in bfloat16.
_ROUNDING_POWER = 0.75


class IsolatedEffect:
    """Runs the dense layers above single swapped sublayers, many of them in one batch.

    The shift of the final stream is the local shift plus, for every later sublayer, what it adds on the moved stream
    minus what it adds on the dense one, summed in float64. Two final streams are never subtracted: they are much
    longer than their difference. The dense stream is one entry of every batch, so that both contributions come from
    one call and a matrix product of another shape adds no noise (products of 16 rows and more were bit-equal in any
    shape with MKL; those of fewer rows, on a GPU or in bfloat16 need not be). What is left is the rounding of the
    model's own type on the moved stream and on what is added, about u(‖stream‖ + ‖contribution‖) a sublayer with
    u = 6e-8 in float32 and 4e-3 in bfloat16: measured on SmolLM2-135M, local shifts as long as a tenth of the
    contribution arrive with a relative error of 5e-5 (median) to 6e-3 (first token, whose stream is 1e4 times as
    long as what is added), the same that a pruned model run whole in float32 has.

    Where every sublayer is changed, a prompt costs about half as many whole passes as there are sublayers. Memory:
    positions × width × changed sublayers × 8 bytes for the shifts, and one layer's activations of `rows` tokens.

    Hooks are on the decoder's modules while it runs: one thread at a time.

    Args:
        decoder: the dense model.
        rows: tokens of one call of a layer, dense entry included; fewer bound the memory, more are faster up to the
            machine's best matrix product. At least one swapped entry runs, however long the sequence is.
    """

    def __init__(self, decoder: Decoder, rows: int = 1024) -> None:
        self._decoder, self._rows = decoder, rows
        # Whether a layer gives in a batch what it gives entry by entry; found at its first use.
        self._batches: dict[int, bool] = {}

    @torch.inference_mode()
    def shifts(self, dense: Capture, moved: Mapping[str, States]) -> dict[str, States]:
        """Shift of the final residual stream that each swapped sublayer makes on its own.

        Args:
            dense: a pass over all tokens at once that kept its calls.
            moved: local shift of each swapped sublayer at all positions, by label: what it adds in the dense context
                minus what the dense one adds.

        Returns:
            By label, at all positions, before the final norm, float32; exactly zero where the local shift is.

        Raises:
            ValueError: the pass has no calls of layers, or a label is none of the decoder's.
            ComputationError: a layer called again on the dense stream does not add what it added before.
        """
        unknown = sorted(set(moved) - {sublayer.label for sublayer in self._decoder.sublayers})
        if unknown or not dense.layer_calls:
            raise ValueError(f"no sublayer {unknown[0]}" if unknown else "a pass over all tokens at once is needed")
        shifts: dict[str, Tensor] = {}  # of the stream, float64
        for index, layer in enumerate(self._decoder.layers):
            swapped = {
                sublayer.label: moved[sublayer.label].double()
                for sublayer in layer.sublayers
                if sublayer.label in moved and bool(moved[sublayer.label].any())
            }
            # In a sequential layer the MLP runs on what a swapped attention moved; all else enters behind the layer.
            inside = {} if layer.is_parallel else {k: v for k, v in swapped.items() if k == layer.attn.label}
            if shifts or inside:
                shifts = self._through(index, dense, shifts | inside)
            shifts = swapped | shifts
        return {label: shifts.get(label, torch.zeros_like(local)).float() for label, local in moved.items()}

    def _through(self, index: int, dense: Capture, shifts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Shifts behind a layer from those before it; that of the layer's own attention comes in behind it."""
        layer, call = self._decoder.layers[index], dense.layer_calls[index]
        if index not in self._batches:
            self._batches[index] = _proved(layer, call, dense)
        stream = stream_of(*call)
        size = max(1, self._rows // stream.shape[1] - 1)
        behind, labels = {}, list(shifts)
        for start in range(0, len(labels), size):
            chunk = labels[start : start + size]
            swap = {
                entry: shifts[label].to(stream.dtype)
                for entry, label in enumerate(chunk, start=1)
                if label == layer.attn.label
            }
            streams = torch.cat(
                [stream]
                + [
                    stream if entry in swap else (stream.double() + shifts[label]).to(stream.dtype)
                    for entry, label in enumerate(chunk, start=1)
                ]
            )
            attn, mlp = self._added(index, call, streams, swap)
            for entry, label in enumerate(chunk, start=1):
                behind[label] = shifts[label] + (mlp[entry].double() - mlp[0].double())
                if entry not in swap:
                    behind[label] += attn[entry].double() - attn[0].double()
        return behind

    def _added(self, index: int, call: Arguments, streams: Batch, swap: dict[int, Tensor]) -> tuple[Batch, Batch]:
        layer = self._decoder.layers[index]
        if self._batches[index]:
            return _contributions(layer, call, streams, swap)
        alone = [
            _contributions(layer, call, stream, {0: swap[entry]} if entry in swap else {})
            for entry, stream in enumerate(streams.split(1))
        ]
        attn, mlp = zip(*alone, strict=True)
        return torch.cat(attn), torch.cat(mlp)


def _contributions(layer: Layer, call: Arguments, streams: Batch, swap: Mapping[int, Tensor]) -> tuple[Batch, Batch]:
    """What attention and MLP of a layer add on each stream.

    Args:
        layer: the layer.
        call: how it was called on the dense stream; only the state is another one now.
        streams: what it reads.
        swap: shift of what the attention adds, by entry; the MLP sees it.
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

    def mlp(contribution: Tensor) -> None:
        added["mlp"] = contribution

    with hooks(*layer.attn.watch(attn), *layer.mlp.watch(mlp)):
        call_with_state(layer.module, *call, streams)
    return added["attn"].to(streams.device), added["mlp"].to(streams.device)


def _proved(layer: Layer, call: Arguments, dense: Capture) -> bool:
    """Whether the layer takes a batch with the arguments of one sequence: two entries must give what each gives alone.

    Most arguments are broadcast over the batch, some (ALiBi biases by entry and head) are not.
    """
    stream = stream_of(*call)
    again = _contributions(layer, call, stream, {})
    for sublayer, found in zip(layer.sublayers, again, strict=True):
        if not _is_close(found[0], dense.whole[sublayer.label]):
            raise ComputationError(
                f"{sublayer.name}: called again on the same stream it adds something else; leave out scope isolated"
            )
    other = stream.flip(-1)
    try:
        together = _contributions(layer, call, torch.cat([stream, other]), {})
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError):  # whatever a module raises on shapes that do not match
        return False
    alone = zip(again, _contributions(layer, call, other, {}), strict=True)
    return all(_is_close(found, torch.cat(parts)) for found, parts in zip(together, alone, strict=True))


def _is_close(found: Tensor, truth: Tensor) -> bool:
    allowed = torch.finfo(found.dtype).eps ** _ROUNDING_POWER
    return bool((found.double() - truth.double()).norm() <= allowed * truth.double().norm())
