"""A loaded decoder whose parts were found by structure and proved by running it, not by its architecture's name.

Loading and finding only; what is measured on it lives in `pipelines.traces`, what changes it in `pipelines.pruning`.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LlamaModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.pytorch_utils import Conv1D

from pipelines.metrics.heads import Head

Kind = Literal["attn", "mlp"]


@dataclass(frozen=True)
class Sublayer:
    """One attention or MLP of one layer.

    Attributes:
        layer: index from 0.
        kind: attn or mlp.
        name: the module's name in the model.
        mixer: the module that computes; its input is the normed stream.
        contribution: the module whose output is added to the stream: the mixer, or a norm behind it.
        linears: the weight matrices inside the mixer, by name in the model.
        returns: length of the tuple that the mixer returns; 0 where it returns a tensor.
    """

    layer: int
    kind: Kind
    name: str
    mixer: nn.Module
    contribution: nn.Module
    linears: dict[str, nn.Linear | Conv1D]
    returns: int

    @property
    def label(self) -> str:
        """Short name such as `attn.3`."""
        return f"{self.kind}.{self.layer}"


@dataclass(frozen=True)
class Layer:
    """One decoder layer: its two sublayers, in sequence or both on the same input (parallel)."""

    module: nn.Module
    attn: Sublayer
    mlp: Sublayer
    is_parallel: bool


@dataclass(frozen=True)
class Decoder:
    """A dense model, ready to be measured.

    Attributes:
        model: the transformers model, in eval mode, without gradients.
        trunk: the part below the LM head; returns the normed last state.
        layers: in order.
        final_norm: the module before the head; its input is the residual stream.
        head: final norm and LM head in the form that the metrics read.
        tokenizer: the model's own.
        end_ids: tokens that end a text.
        folder: where it was loaded from.
    """

    model: nn.Module
    trunk: nn.Module
    layers: tuple[Layer, ...]
    final_norm: nn.Module
    head: Head
    tokenizer: Any
    end_ids: frozenset[int]
    context_length: int
    folder: Path
    dtype: torch.dtype
    device: torch.device

    @property
    def is_rounded(self) -> bool:
        """Whether its body computes in another type than the dense model's for now: a variant of noise."""
        return next(self.trunk.parameters()).dtype != self.dtype

    @property
    def sublayers(self) -> Iterator[Sublayer]:
        """Attention and MLP of every layer, in the order in which the stream meets them."""
        for layer in self.layers:
            yield layer.attn
            yield layer.mlp

    @torch.inference_mode()
    def hidden(
        self,
        tokens: Int[Tensor, "batch tokens"],
        cache: "CountedCache | None" = None,
        real: Int[Tensor, "batch seen"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Runs the trunk; the normed last states. What hooks saw is the caller's.

        Args:
            tokens: the new tokens.
            cache: keys and values of the tokens before; the new ones are added to it.
            real: 1 where a token counts, 0 where it pads on the left, over all tokens seen so far and the new ones.
        """
        keywords: dict[str, Any] = {"use_cache": False} if cache is None else {"use_cache": True, cache_key(): cache}
        if real is not None and not bool(real.all()):
            keywords["attention_mask"] = real
            # A padded prompt starts at position 0 all the same; models without position ids read the mask.
            if "position_ids" in inspect.signature(self.trunk.forward).parameters:
                positions = (real.cumsum(dim=1) - 1).clamp(min=0)
                keywords["position_ids"] = positions[:, -tokens.shape[1] :]
        states = self.trunk(input_ids=tokens, **keywords).last_hidden_state
        if cache is not None:
            cache.seen += tokens.shape[1]
        return cast(Tensor, states)


class CountedCache(DynamicCache):
    """A key-value cache that counts tokens itself, so that a model whose first attention is dropped keeps its place."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002 (the base class's signature)
        """Tokens seen by the model."""
        return self.seen

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:  # noqa: ARG002
        """Length and offset of the keys that the next call sees."""
        return self.seen + query_length, 0


def cache_key() -> str:
    """Name of the argument through which a trunk takes its cache; transformers 5.2x renamed it."""
    return "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"


def first_tensor(value: object) -> Tensor:
    """The tensor of a module's output: itself, or the first of a tuple."""
    return cast(Tensor, value[0] if isinstance(value, tuple) else value)


@contextmanager
def hooks(*registered: "torch.utils.hooks.RemovableHandle") -> Iterator[None]:
    """Removes hooks at the end, whatever happens."""
    try:
        yield
    finally:
        for handle in registered:
            handle.remove()


def state_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The state that a module was called on: its first tensor, positional or `hidden_states`."""
    if args and isinstance(args[0], Tensor):
        return args[0]
    given = kwargs.get("hidden_states")
    if isinstance(given, Tensor):
        return given
    return next((value for value in kwargs.values() if isinstance(value, Tensor)), None)


def call_with_state(mixer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], state: Tensor) -> Tensor:
    """Calls a module as it was called before, on another state."""
    given = state_argument(args, kwargs)
    if args and args[0] is given:
        return first_tensor(mixer(state, *args[1:], **kwargs))
    return first_tensor(mixer(*args, **{key: state if value is given else value for key, value in kwargs.items()}))


def weight_matrix(linear: nn.Linear | Conv1D) -> Float[Tensor, "out in"]:
    """A linear module's weight with outputs as rows; GPT-2's Conv1D stores it the other way round. A view."""
    weight = linear.weight
    return weight.T if isinstance(linear, Conv1D) else weight


def swap_cache(kwargs: dict[str, Any], cache: Cache | None) -> dict[str, Any]:
    """The same keyword arguments with another key-value cache in place of the one that was passed."""
    return {key: cache if isinstance(value, Cache) else value for key, value in kwargs.items()}
