"""Running a decoder over known tokens while keeping what every sublayer read and added.

All at once or token by token through key-value caches: both give the same states, and a test says so.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache

from pipelines.models.decoder import (
    CountedCache,
    Decoder,
    Sublayer,
    call_with_state,
    first_tensor,
    hooks,
    state_argument,
    swap_cache,
)
from pipelines.pruning.variant import swapped

States = Float[Tensor, "positions width"]
Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class Capture:
    """One pass over a sequence.

    Attributes:
        streams: residual stream entering each layer, at the measured positions, by layer.
        added: what each sublayer added to the stream there, by label, float32.
        calls: how each mixer was called, one entry a chunk, by label; empty unless asked for.
    """

    streams: dict[int, States] = field(default_factory=dict)
    added: dict[str, States] = field(default_factory=dict)
    calls: dict[str, list[Call]] = field(default_factory=dict)


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
        keep_calls: whether to keep the mixers' arguments for `replay`.
    """
    capture = Capture()
    pieces: dict[tuple[str, int | str], list[Tensor]] = {}
    with ExitStack() as stack:
        for index, layer in enumerate(decoder.layers):
            stack.enter_context(
                hooks(layer.module.register_forward_pre_hook(_keep_stream(index, pieces), with_kwargs=True))
            )
            for sublayer in (layer.attn, layer.mlp):
                stack.enter_context(
                    hooks(sublayer.contribution.register_forward_hook(_keep_added(sublayer.label, pieces)))
                )
                if keep_calls:
                    keep = _keep_call(capture.calls.setdefault(sublayer.label, []))
                    stack.enter_context(hooks(sublayer.mixer.register_forward_pre_hook(keep, with_kwargs=True)))
        if decoder.is_rounded:
            keep_last = _keep_stream(len(decoder.layers), pieces)
            stack.enter_context(hooks(decoder.final_norm.register_forward_pre_hook(keep_last, with_kwargs=True)))
        if by_token_from is None:
            decoder.hidden(tokens)
        else:
            cache = CountedCache()
            for chunk in (tokens[:, :by_token_from], *tokens[:, by_token_from:].split(1, dim=1)):
                decoder.hidden(chunk, cache)
    for (what, key), parts in pieces.items():
        states = torch.cat(parts, dim=1)[0, first:].float()
        if what == "stream":
            capture.streams[int(key)] = states
        else:
            capture.added[str(key)] = states
    if decoder.is_rounded:
        _count_rounded_sums(decoder, capture)
    return capture


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


def _keep_added(label: str, pieces: dict[tuple[str, int | str], list[Tensor]]) -> Any:  # noqa: ANN401 (a torch hook)
    def hook(module: nn.Module, args: tuple[Any, ...], output: object) -> None:  # noqa: ARG001
        pieces.setdefault(("added", label), []).append(first_tensor(output))

    return hook


def _keep_call(calls: list[Call]) -> Any:  # noqa: ANN401 (a torch hook)
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
        calls.append((args, kwargs))

    return hook


@torch.inference_mode()
def replay(sublayer: Sublayer, calls: list[Call], weights: Mapping[str, Tensor], first: int) -> States:
    """What a sublayer with other weights would have added in the dense context, at the measured positions.

    An attention that ran through a cache gets a cache of its own, filled by its own keys and values: with the dense
    one, every step after the first would be wrong.
    """
    own = CountedCache()
    parts = []
    with swapped([sublayer], weights):
        for args, kwargs in calls:
            state = state_argument(args, kwargs)
            if state is None:  # pragma: no cover (discovery has called it with one)
                raise TypeError(f"{sublayer.name} was called without a state")
            cached = any(isinstance(value, Cache) for value in kwargs.values())
            arguments = swap_cache(kwargs, own) if cached else kwargs
            output = call_with_state(sublayer.mixer, args, arguments, state)
            own.seen += state.shape[1]
            parts.append(
                output if sublayer.contribution is sublayer.mixer else first_tensor(sublayer.contribution(output))
            )
    return torch.cat(parts, dim=1)[0, first:].float()
