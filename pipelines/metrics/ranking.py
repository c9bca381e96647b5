"""Top tokens and ranks, with ties broken by the lowest token id as in `argmax` but not in `torch.topk`."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 128


def _first_largest(values: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` largest values per row, ties by lowest index; overwrites `values`."""
    # Sorting needs few launches on a GPU. On a CPU, `argmax` per value is three times as fast for few values.
    return (_one_by_one if values.device.type == "cpu" else _by_sorting)(values, count)


def _one_by_one(values: Tensor, count: int) -> Tensor:
    indices = []
    for _ in range(count):
        index = values.argmax(-1, keepdim=True)  # argmax returns the first of equal values
        indices.append(index)
        values.scatter_(-1, index, -torch.inf)
    return torch.cat(indices, -1)


def _by_sorting(values: Tensor, count: int) -> Tensor:
    return values.sort(dim=-1, descending=True, stable=True).indices[:, :count]


def top_ids(logits: Float[Tensor, "n v"], count: int) -> Int[Tensor, "n k"]:
    """Return the ids of the `count` most likely tokens per row in order, ties by lowest id."""
    rows, size = logits.shape
    whole = size - size % CHUNK
    maxima = [logits[:, :whole].reshape(rows, size // CHUNK, CHUNK).amax(-1)]
    if whole < size:
        maxima.append(logits[:, whole:].amax(-1, keepdim=True))
    return top_of_chunks(torch.cat(maxima, -1), lambda ids: logits.gather(1, ids), size, count)


def top_of_chunks(
    maxima: Float[Tensor, "n chunks"], logits: Callable[[Tensor], Tensor], size: int, count: int
) -> Int[Tensor, "n k"]:
    """Return the ids of the `count` most likely tokens from the maxima of chunks of CHUNK tokens; overwrites `maxima`.

    The top k tokens are in the first k chunks by (maximum, lowest chunk), because every chunk before a token's own
    contains a token that precedes it. `logits` returns the logits at ids (n, m) of every row. `size` is V ≥ k.
    """
    chunks = _first_largest(maxima, min(count, maxima.shape[1])).sort(-1).values
    ids = (chunks[:, :, None] * CHUNK + torch.arange(CHUNK, device=chunks.device)).flatten(1)
    candidates = logits(ids.clamp(max=size - 1)).masked_fill_(ids >= size, -torch.inf)
    return ids.gather(1, _first_largest(candidates, min(count, size)))


def ranks(logits: Float[Tensor, "n v"], tokens: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Return the rank of one token per row: 1 + tokens above it + equal tokens with a lower id."""
    token = tokens[:, None]
    value = logits.gather(1, token)
    is_before = torch.arange(logits.shape[1], device=logits.device) < token
    return 1 + torch.count_nonzero((logits > value) | ((logits == value) & is_before), 1)
