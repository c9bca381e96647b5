"""Forward passes over known tokens that record what every sublayer reads and adds."""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.float64_pass import Norms, cast_floats, in_float64, sublayer_in_float64
from prunescope.pipelines.models.module_calls import Arguments, first_tensor, hooks, stream_of
from prunescope.pipelines.models.sublayer import Sublayer, SublayerCall
from prunescope.pipelines.models.token_cache import TokenCache
from prunescope.pipelines.pruning.variant_patching import sublayer_noise, swap_weights

States = Float[Tensor, "positions width"]


@dataclass
class Capture:
    """Record of one pass over a sequence.

    Attributes:
        norms: result of `float64_norms` if the layers computed in float64, otherwise None.
        streams: residual stream entering each layer, at the measured positions, by layer, float32.
        added: contribution of each sublayer to the stream at the measured positions, by label; float32, or float64 if
            the layers computed in float64, because a difference of two passes must keep its digits.
        calls: arguments of each sublayer, one entry per chunk, by label; empty unless requested.
        whole: contribution of each sublayer at every position, by label; kept if the calls are. `added` is a view of
            it. It takes positions × width × sublayers × 4 or 8 bytes.
        layer_calls: arguments of each layer, by layer; kept if the calls are, in a pass over all tokens at once in the
            model's own type. After a pass through a cache a layer cannot be called again, because the cache holds the
            keys of later tokens.
    """

    norms: Norms | None = None
    streams: dict[int, States] = field(default_factory=dict)
    added: dict[str, States] = field(default_factory=dict)
    calls: dict[str, list[SublayerCall]] = field(default_factory=dict)
    whole: dict[str, States] = field(default_factory=dict)
    layer_calls: dict[int, Arguments] = field(default_factory=dict)


def stream_after(decoder: Decoder, capture: Capture, sublayer: Sublayer) -> States:
    """Return the residual stream after a sublayer, float32; in a parallel layer both sublayers share this point."""
    layer = decoder.layers[sublayer.layer]
    stream = capture.streams[sublayer.layer] + capture.added[layer.attn.label]
    if sublayer.kind == "mlp" or layer.is_parallel:
        stream = stream + capture.added[layer.mlp.label]
    return stream.float()


def run_known(
    decoder: Decoder,
    tokens: Int[Tensor, "1 tokens"],
    first: int,
    *,
    by_token_from: int | None,
    keep_calls: bool,
    norms: Norms | None = None,
) -> Capture:
    """Run the decoder with its current weights over given tokens, and record every position from `first` on.

    A pass over all tokens and a pass through a key-value cache give the same states. The tokens from `by_token_from` on
    run one by one through a cache; None runs all at once. `keep_calls` keeps arguments and whole contributions, for
    `replay` and for scope `isolated`. `norms`, the result of `float64_norms`, lets the layers compute in float64.
    """
    capture = Capture(norms)
    streams: dict[int, list[Tensor]] = defaultdict(list)
    added: dict[str, list[Tensor]] = defaultdict(list)

    def save_stream(index: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        streams[index].append(stream_of(args, kwargs))
        if keep_calls and by_token_from is None and norms is None:
            capture.layer_calls[index] = args, kwargs

    def save_final_stream(module: nn.Module, args: tuple[Any, ...], output: object) -> None:  # noqa: ARG001
        streams[len(decoder.layers)].append(first_tensor(output))

    def save_added(label: str, contribution: Tensor) -> None:
        added[label].append(contribution.to(decoder.device))

    with ExitStack() as stack:
        if norms is not None:  # before the other hooks are registered, so that they see float64
            stack.enter_context(in_float64(decoder, norms))
        handles = []
        for index, layer in enumerate(decoder.layers):
            handles.append(layer.module.register_forward_pre_hook(partial(save_stream, index), with_kwargs=True))
            for sublayer in (layer.attn, layer.mlp):
                handles += sublayer.watch(partial(save_added, sublayer.label))
                if keep_calls:
                    handles += sublayer.record_calls(capture.calls.setdefault(sublayer.label, []))
        if decoder.is_rounded:
            handles.append(decoder.layers[-1].module.register_forward_hook(save_final_stream))
        stack.enter_context(hooks(*handles))
        chunks = (
            tokens.split([by_token_from, *[1] * (tokens.shape[1] - by_token_from)], 1) if by_token_from else [tokens]
        )
        cache = None if by_token_from is None else decoder.new_cache()
        for chunk in chunks:
            decoder.hidden(chunk, cache)
    for index, parts in streams.items():
        capture.streams[index] = torch.cat(parts, dim=1)[0, first:].float()
    for label, parts in added.items():
        states = torch.cat(parts, dim=1)[0]
        if norms is None:
            states = states.float()
        if keep_calls:
            capture.whole[label] = states
        capture.added[label] = states[first:]
    if decoder.is_rounded:
        # The rounding of a layer's own sums is added to its MLP's contribution. In float32 it is far below what is
        # measured, and is ignored on both sides; in bfloat16 it is most of the shift. All terms are multiples of one
        # bfloat16 step or close to each other, so float32 holds the differences exactly.
        after = capture.streams.pop(len(decoder.layers))
        for index, layer in reversed(list(enumerate(decoder.layers))):
            stream = capture.streams[index]
            capture.added[layer.mlp.label] = after - stream - capture.added[layer.attn.label]
            after = stream
    return capture


@torch.inference_mode()
def replay(
    sublayer: Sublayer,
    calls: list[SublayerCall],
    weights: Mapping[str, Tensor],
    first: int,
    norms: Norms | None = None,
    noise: str | None = None,
) -> States:
    """Return the contribution of a sublayer with other weights in the dense context, at the positions from `first` on.

    An attention that ran through a cache gets a new cache, which its own keys and values fill. With the dense cache,
    every step after the first would be wrong.

    `calls` and `norms` are those of the dense pass, `weights` as for `swap_weights`. With the `noise` of a `Variant`,
    the sublayer computes with that rounding, even after a float64 pass. The result, (positions, width), has the type of
    the dense pass's contributions, or float32 with noise.
    """
    if noise is not None:
        own = next(parameter for part in sublayer.parts for parameter in part.chain[0].parameters()).dtype
        norms, dtype = None, torch.bfloat16 if noise == "bfloat16" else own
        calls = [replace(call, parts=cast_floats(call.parts, dtype)) for call in calls]
    dense = next((value for call in calls for value in call.values if isinstance(value, TokenCache)), None)
    cache = None if dense is None else dense.fresh()
    rounding = sublayer_noise(sublayer, noise) if norms is None else sublayer_in_float64(sublayer, norms)
    with swap_weights(sublayer, weights), rounding:
        parts = [sublayer.recompute(call, cache) for call in calls]
    states = torch.cat(parts, dim=1)[0, first:]
    return states.float() if norms is None else states
