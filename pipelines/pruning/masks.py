"""Which weights stay: exact masks from scores, ties included. True keeps a weight.

Scores only; where they come from is each recipe's business.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipelines.errors import ComputationError, InputError

Scores = Float[Tensor, "out in"]
Mask = Bool[Tensor, "out in"]


def keep_share(scores: Scores, sparsity: float, group: str) -> Mask:
    """Drops exactly round(sparsity × n) of the lowest scores in each group of n.

    Args:
        scores: (outputs, inputs), finite; low is dropped.
        sparsity: share to drop, 0 to 1.
        group: `matrix` (all scores together) or `output` (each row by itself).

    Equal scores at the threshold are dropped in index order until the count is exact: a bare `<=` drops too many
    on quantized weights, which are full of ties.

    Raises:
        ComputationError: a score is NaN or infinite.
    """
    _require_finite(scores)
    rows = scores.reshape(1, -1) if group == "matrix" else scores
    count = round(sparsity * rows.shape[1])
    if count == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    # numpy's introselect is several times faster than torch's kthvalue on a CPU.
    smallest = np.partition(rows.cpu().numpy(), count - 1, axis=1)[:, count - 1 : count]
    threshold = torch.from_numpy(smallest).to(rows.device)
    kept = rows > threshold
    # No row has more above its threshold than it keeps, so that all have as many if the sum is right.
    if int(kept.count_nonzero()) == len(rows) * (rows.shape[1] - count):
        return kept.reshape(scores.shape)
    below = rows < threshold  # somewhere several scores lie on the threshold, and not all of them are dropped
    tied = rows == threshold
    missing = count - below.sum(dim=1, keepdim=True)
    dropped = below | (tied & (tied.cumsum(dim=1) <= missing))
    return ~dropped.reshape(scores.shape)


def keep_n_of_m(scores: Scores, keep: int, block: int) -> Mask:
    """Keeps exactly the `keep` highest of every `block` consecutive inputs (N:M); the first wins a tie.

    Raises:
        InputError: the number of inputs is not a multiple of `block`.
        ComputationError: a score is NaN or infinite.
    """
    _require_finite(scores)
    outputs, inputs = scores.shape
    if inputs % block:
        raise InputError(f"{keep}:{block} needs a multiple of {block} inputs, this module has {inputs}")
    # Rank by counting who is ahead: exact on ties, and a few passes instead of a sort of every group. Places of a
    # group stand apart, so that each pass reads memory in a row.
    places = scores.reshape(-1, block).T.contiguous()
    ahead = torch.zeros(places.shape, dtype=torch.int8, device=places.device)
    for first in range(block):
        for second in range(first + 1, block):
            wins = places[first] >= places[second]
            ahead[second] += wins
            ahead[first] += ~wins
    return (ahead < keep).T.reshape(outputs, inputs)


def _require_finite(scores: Scores) -> None:
    low, high = torch.aminmax(scores)  # NaN if there is one
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        raise ComputationError("a pruning score is NaN or infinite: the weights or the activations are damaged")
