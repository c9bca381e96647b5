"""Running a decoder over known tokens while keeping what every sublayer read and added.

All at once or token by token through key-value caches: both give the same states, and a test says so.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prunescope.pipelines.models.decoder import Decoder, TokenCache
from prunescope.pipelines.models.module_calls import Arguments, first_tensor, hooks, state_argument
from prunescope.pipelines.models.sublayer import Sublayer, SublayerCall
from prunescope.pipelines.pruning.variant_patching import swap_weights

States = Float[Tensor, "positions width"]


@dataclass
class Capture:
    """One pass over a sequence.

    Attributes:
        streams: residual stream entering each layer, at the measured positions, by layer.
        added: what each sublayer added to the stream there, by label, float32.
        calls: how each sublayer was called, one entry a chunk, by label; empty unless asked for.
        whole: what each sublayer added at every position, measured or not, by label; kept with the calls. `added` is
            a part of it, not a copy: positions × width × sublayers × 4 bytes in all.
        layer_calls: how each layer was called, by layer; kept with the calls where all tokens ran at once, because a
            cache holds the keys of later tokens by the time a layer would be called again.
    """

    streams: dict[int, States] = field(default_factory=dict)
    added: dict[str, States] = field(default_factory=dict)
    calls: dict[str, list[SublayerCall]] = field(default_factory=dict)
    whole: dict[str, States] = field(default_factory=dict)
    layer_calls: dict[int, Arguments] = field(default_factory=dict)


def run_known(
    decoder: Decoder, tokens: Int[Tensor, "1 tokens"], first: int, *, by_token_from: int | None, keep_calls: bool
) -> Capture:
    """Runs the decoder, as it is now, over tokens that are known in advance.

    Args:
        decoder: dense, or wearing a variant.
        tokens: (1, length).
        first: first measured position; all later ones are measured.
        by_token_from: None runs all tokens at once; else the tokens before it at once and the rest one by one,
            through a key-value cache.
        keep_calls: whether to keep arguments and whole contributions, for `replay` and for `isolated`.
    """
    capture = Capture()
    pieces: dict[tuple[str, int | str], list[Tensor]] = {}
    with ExitStack() as stack:
        for index, layer in enumerate(decoder.layers):
            if keep_calls and by_token_from is None:
                keep = _keep_call(index, capture.layer_calls)
                stack.enter_context(hooks(layer.module.register_forward_pre_hook(keep, with_kwargs=True)))
            stack.enter_context(
                hooks(layer.module.register_forward_pre_hook(_keep_stream(index, pieces), with_kwargs=True))
            )
            for sublayer in (layer.attn, layer.mlp):
                stack.enter_context(hooks(*sublayer.watch(_keep_added(sublayer.label, pieces, decoder.device))))
                if keep_calls:
                    kept = capture.calls.setdefault(sublayer.label, [])
                    stack.enter_context(hooks(*sublayer.record_calls(kept)))
        if decoder.is_rounded:
            keep_last = _keep_output(len(decoder.layers), pieces)
            stack.enter_context(hooks(decoder.layers[-1].module.register_forward_hook(keep_last)))
        if by_token_from is None:
            decoder.hidden(tokens)
        else:
            cache = decoder.new_cache()
            for chunk in (tokens[:, :by_token_from], *tokens[:, by_token_from:].split(1, dim=1)):
                decoder.hidden(chunk, cache)
    _fill(capture, pieces, first, keep_whole=keep_calls)
    if decoder.is_rounded:
        _count_rounded_sums(decoder, capture)
    return capture


def _fill(capture: Capture, pieces: dict[tuple[str, int | str], list[Tensor]], first: int, *, keep_whole: bool) -> None:
    """Streams and contributions from the chunks in which they came."""
    for (what, key), parts in pieces.items():
        states = torch.cat(parts, dim=1)[0]
        if what == "stream":
            capture.streams[int(key)] = states[first:].float()
        elif keep_whole:
            capture.whole[str(key)] = states.float()
            capture.added[str(key)] = capture.whole[str(key)][first:]
        else:
            capture.added[str(key)] = states[first:].float()


def _keep_call(index: int, calls: dict[int, Arguments]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
        calls[index] = (args, kwargs)

    return hook


def _count_rounded_sums(decoder: Decoder, capture: Capture) -> None:
    """Counts as added by each MLP what the layer's own additions rounded away.

    In float32 that is far below what is measured, and left out on both sides. In bfloat16 it is most of what moves.
    """
    last = capture.streams.pop(len(decoder.layers))
    for index, layer in reversed(list(enumerate(decoder.layers))):
        stream = capture.streams[index]
        # All of these are multiples of one bfloat16 step or close to each other: float32 holds the differences.
        capture.added[layer.mlp.label] = last - stream - capture.added[layer.attn.label]
        last = stream


def _keep_stream(index: int, pieces: dict[tuple[str, int | str], list[Tensor]]) -> Any:  # noqa: ANN401 (a torch hook)
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
        state = state_argument(args, kwargs)
        if state is not None:
            pieces.setdefault(("stream", index), []).append(state)

    return hook


def _keep_output(index: int, pieces: dict[tuple[str, int | str], list[Tensor]]) -> Any:  # noqa: ANN401 (a torch hook)
    def hook(module: nn.Module, args: tuple[Any, ...], output: object) -> None:  # noqa: ARG001
        pieces.setdefault(("stream", index), []).append(first_tensor(output))

    return hook


def _keep_added(
    label: str, pieces: dict[tuple[str, int | str], list[Tensor]], device: torch.device
) -> Callable[[Tensor], None]:
    def see(added: Tensor) -> None:
        pieces.setdefault(("added", label), []).append(added.to(device))

    return see


@torch.inference_mode()
def replay(sublayer: Sublayer, calls: list[SublayerCall], weights: Mapping[str, Tensor], first: int) -> States:
    """What a sublayer with other weights would have added in the dense context, at the measured positions.

    An attention that ran through a cache gets a cache of its own, filled by its own keys and values: with the dense
    one, every step after the first would be wrong.
    """
    dense = next((value for call in calls for value in call.values if isinstance(value, TokenCache)), None)
    own = None if dense is None else dense.fresh()
    with swap_weights([sublayer], weights):
        parts = [sublayer.recompute(call, own) for call in calls]
    return torch.cat(parts, dim=1)[0, first:].float()
