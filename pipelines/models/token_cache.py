"""The key-value cache of decoding, which writes new tokens in place instead of copying all earlier ones."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

# Tokens for which a full buffer is extended: its copy is needed once in so many steps.
ROOM = 64


class TokenCache(DynamicCache):
    """The cache that a model's config requires: keys and values, windows of them, or the states of a recurrence."""

    def __init__(self, config: Any) -> None:  # noqa: ANN401 (any architecture's config)
        super().__init__(config=config)
        # Windows and recurrences have a fixed size already; the library itself adds layers that a config has not.
        self.layers = [
            _GrowingLayer() if type(layer) is DynamicLayer else layer  # type: ignore[no-untyped-call]
            for layer in self.layers
        ]
        self._config = config

    def fresh(self) -> "TokenCache":
        """Return an empty cache of the same form."""
        return TokenCache(self._config)

    def keep(self, rows: Sequence[int]) -> None:
        """Replace the batch by some of its rows; a row may repeat."""
        self.reorder_cache(torch.LongTensor(rows))  # of the library's selections the one that recurrences have too


class _GrowingLayer(DynamicLayer):
    """Keys and values of all tokens so far, as the used part of two buffers with room for more."""

    _buffers: tuple[Tensor, Tensor]
    _used: Tensor | None = None  # keys within the buffer; keys that were selected from a batch have no room behind them

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *args: object,  # noqa: ARG002
        **kwargs: object,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values of new tokens, (batch, heads, tokens, size) each, and return those of all tokens."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if self.keys is not self._used or after > self._buffers[0].shape[-2]:
            keys, values = _buffer(self.keys, key_states, after), _buffer(self.values, value_states, after)
            self._buffers = keys, values
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., before:after, :] = states
        self.keys, self.values = (buffer[..., :after, :] for buffer in self._buffers)
        self._used = self.keys
        return self.keys, self.values

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens, whose number is given below 0."""
        is_used = self.keys is self._used
        super().crop(tokens_to_remove)
        if is_used:
            self._used = self.keys


def _buffer(held: Tensor | None, new: Tensor, tokens: int) -> Tensor:
    """Return a buffer for `ROOM` tokens more than so many, which begins with the held states, if there are any."""
    buffer = new.new_empty((*new.shape[:-2], tokens + ROOM, new.shape[-1]))
    if held is not None and held.numel():
        buffer[..., : held.shape[-2], :] = held
    return buffer
