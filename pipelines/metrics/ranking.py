"""Top tokens and ranks with ties broken by the lowest token id, as argmax does and `torch.topk` does not."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_CHUNK = 128


def _first_largest(values: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` largest of every row, ties by lowest index; overwrites `values`."""
    indices = []
    for _ in range(count):
        index = values.argmax(-1, keepdim=True)  # argmax returns the first of equal values
        indices.append(index)
        values.scatter_(-1, index, -torch.inf)
    return torch.cat(indices, -1)


def top_ids(logits: Float[Tensor, "n v"], count: int) -> Int[Tensor, "n k"]:
    """Return the ids of the `count` most likely tokens of every row in order, ties by lowest id.

    One pass takes the maximum of every chunk of tokens. The top k tokens are in the first k chunks by
    (maximum, lowest chunk), because every chunk before a token's own contains a token that precedes it.
    """
    rows, size = logits.shape
    whole = size - size % _CHUNK
    maxima = [logits[:, :whole].reshape(rows, size // _CHUNK, _CHUNK).amax(-1)]
    if whole < size:
        maxima.append(logits[:, whole:].amax(-1, keepdim=True))
    peaks = torch.cat(maxima, -1)
    chunks = _first_largest(peaks, min(count, peaks.shape[1])).sort(-1).values
    ids = (chunks[:, :, None] * _CHUNK + torch.arange(_CHUNK, device=logits.device)).reshape(rows, -1)
    candidates = logits.gather(1, ids.clamp(max=size - 1)).masked_fill_(ids >= size, -torch.inf)
    return ids.gather(1, _first_largest(candidates, min(count, size)))


def rank_of(logits: Float[Tensor, " v"], token: int) -> int:
    """Return a token's rank: 1 + tokens above it + equal tokens with a lower id."""
    own = logits[token]
    before = torch.count_nonzero(logits[:token] >= own)
    return 1 + int(before) + int(torch.count_nonzero(logits[token + 1 :] > own))
