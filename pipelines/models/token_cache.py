"""The key-value cache of decoding, which writes new tokens in place instead of copying all earlier ones."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import DynamicCache, DynamicLayer

# Keys and values of one text by layer, (heads, tokens, size) each.
KeyValues = list[tuple[Tensor, Tensor]]
# Tokens by which a full buffer grows; it is copied only once in this many steps.
ROOM = 64


class TokenCache(DynamicCache):
    """The cache that a model's config requires: keys and values, windows of them, or the states of a recurrence."""

    def __init__(self, config: Any) -> None:  # noqa: ANN401 (any architecture's config)
        super().__init__(config=config)
        # Windows and recurrences already have a fixed size.
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
        self.reorder_cache(torch.LongTensor(rows))  # the only selection that the library has for recurrences too

    def join(self, other: "TokenCache", padding: int) -> None:
        """Append the batch of another cache, and remove the first columns of this one, which are padding in every row.

        The shorter of the two is padded on the left. Both hold keys and values of every token.
        """
        for layer, added in zip(cast(list[Any], self.layers), cast(list[Any], other.layers), strict=True):
            layer.join(added, padding)

    @property
    def holds_every_token(self) -> bool:
        """Return whether every layer holds keys and values of all tokens, not windows or states of a recurrence."""
        return all(type(layer) is _GrowingLayer for layer in self.layers)

    def text(self, row: int, first: int) -> KeyValues | None:
        """Return views of one row from a column on, or None if a layer has states other than keys and values."""
        layers = cast(list[Any], self.layers)
        if not self.holds_every_token or not all(layer.get_seq_length() for layer in layers):
            return None
        return [(layer.keys[row, :, first:], layer.values[row, :, first:]) for layer in layers]

    def fill(self, texts: Sequence[KeyValues], lengths: Sequence[int]) -> None:
        """Begin a left-padded batch with the first tokens of texts that were read before.

        The texts' lists are emptied layer by layer, so only one layer is in memory twice.
        """
        for layer in cast(list[_GrowingLayer], self.layers):
            sides = zip(*(text.pop(0) for text in texts), strict=True)
            rows = ([text[:, :end].transpose(0, 1) for text, end in zip(side, lengths, strict=True)] for side in sides)
            layer.update(*(pad_sequence(each, True, padding_side="left").transpose(1, 2) for each in rows))


class _GrowingLayer(DynamicLayer):
    """Keys and values of all tokens so far, in two buffers with space for more."""

    _buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *args: object,  # noqa: ARG002
        **kwargs: object,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values of new tokens, (batch, heads, tokens, size); ValueError for another batch size."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        # An assignment would broadcast a single row.
        if before and self.keys is not None and self.keys.shape[:-2] != key_states.shape[:-2]:
            raise ValueError(f"tokens of {len(key_states)} texts for the cache of {len(self.keys)}")
        buffers = self._buffers
        # Keys that are not the buffer's first ones have no free space after them.
        in_place = buffers is not None and self.keys is not None and self.keys.data_ptr() == buffers[0].data_ptr()
        if buffers is None or not in_place or after > buffers[0].shape[-2]:
            buffers = _buffer(self.keys, key_states, after), _buffer(self.values, value_states, after)
        for buffer, states in zip(buffers, (key_states, value_states), strict=True):
            buffer[..., before:after, :] = states
        self._buffers = buffers
        self.keys, self.values = (buffer[..., :after, :] for buffer in buffers)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Replace the batch by some of its rows, and free the buffers, which also hold the other rows."""
        self._buffers = None
        super().reorder_cache(beam_idx)

    def join(self, other: "_GrowingLayer", padding: int) -> None:
        """Add the keys and values of other texts; see `TokenCache.join`."""
        self._buffers = None
        columns = max(self.get_seq_length() - padding, other.get_seq_length())
        for name in ("keys", "values"):
            sides = getattr(self, name)[:, :, padding:], getattr(other, name)
            padded = [torch.nn.functional.pad(side, (0, 0, columns - side.shape[2], 0)) for side in sides]
            setattr(self, name, torch.cat(padded))


def _buffer(held: Tensor | None, new: Tensor, tokens: int) -> Tensor:
    """Return a buffer for `tokens` + `ROOM` tokens that begins with the held states, if any."""
    buffer = new.new_empty((*new.shape[:-2], tokens + ROOM, new.shape[-1]))
    if held is not None and held.numel():
        buffer[..., : held.shape[-2], :] = held
    return buffer
