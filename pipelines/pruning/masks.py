"""Which weights stay: exact masks from scores, ties included. True keeps a weight.

Scores only; where they come from is each recipe's business.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from numpy.typing import NDArray
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError

Scores = Float[Tensor, "out in"]
Mask = Bool[Tensor, "out in"]
# One of so many scores of a matrix is looked at to guess its threshold; coprime to all usual widths.
_SAMPLED = 97
# Groups of N:M patterns have at most so many weights, here and in recipes.
MOST_BLOCK = 64


def keep_share(scores: Scores, sparsity: float, group: str) -> Mask:
    """Drops exactly round(sparsity × n) of the lowest scores in each group of n.

    Args:
        scores: (outputs, inputs), finite; low is dropped.
        sparsity: share to drop, 0 to 1.
        group: `matrix` (all scores together) or `output` (each row by itself).

    Equal scores at the threshold are dropped in index order until the count is exact: a bare `<=` drops too many
    on quantized weights, which are full of ties.

    Raises:
        InputError: a share below 1 rounds to a whole group.
        ComputationError: a score is NaN or infinite.
    """
    require_finite(scores)
    rows = scores.reshape(1, -1) if group == "matrix" else scores
    count = share_of(rows.shape[1], sparsity)
    if count == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = _smallest(rows, count)
    dropped = rows <= threshold
    # Every row has at least as many as it shall drop, so that one sum tells whether some row has ties too many.
    if int(dropped.count_nonzero()) > len(rows) * count:
        surplus = dropped.sum(dim=1) - count
        crowded = surplus.nonzero().squeeze(1)
        tied = rows[crowded] == threshold[crowded]
        spared = tied.sum(dim=1) - surplus[crowded]
        dropped[crowded] &= ~(tied & (tied.cumsum(dim=1) > spared[:, None]))
    return ~dropped.reshape(scores.shape)


def share_of(size: int, sparsity: float) -> int:
    """How many of a group's weights a share is, rounded.

    Raises:
        InputError: a share below 1 rounds to all of them.
    """
    count = round(sparsity * size)
    if count == size and sparsity < 1:
        raise InputError(f"sparsity {sparsity:g} of a group of {size} weights would drop all of them; lower it")
    return count


def _smallest(rows: Float[Tensor, "rows n"], count: int) -> Float[Tensor, "rows 1"]:
    """The `count`-th smallest of every row."""
    if rows.device.type != "cpu":
        return rows.kthvalue(count, dim=1, keepdim=True).values
    if len(rows) == 1:
        return torch.tensor([[_smallest_of_many(rows[0].numpy(), count)]], dtype=rows.dtype)
    # numpy's introselect is several times faster than torch's kthvalue on a CPU.
    return torch.from_numpy(np.partition(rows.numpy(), count - 1, axis=1)[:, count - 1 : count])


def _smallest_of_many(values: NDArray[np.floating[Any]], count: int) -> float:
    """The `count`-th smallest of one long row: a sample tells between which two values it lies, few lie between."""
    sample = np.sort(values[::_SAMPLED])
    place, margin = (count - 1) * len(sample) // len(values), len(sample) // 50 + 1
    low, high = sample[max(place - margin, 0)], sample[min(place + margin, len(sample) - 1)]
    below = int(np.count_nonzero(values < low))
    between = values[(values >= low) & (values <= high)]
    if not below < count <= below + len(between):  # an odd order of the weights misled the sample
        below, between = 0, values
    return float(np.partition(between, count - 1 - below)[count - 1 - below])


def keep_n_of_m(scores: Scores, keep: int, block: int) -> Mask:
    """Keeps exactly the `keep` highest of every `block` consecutive inputs (N:M); the first wins a tie.

    Raises:
        InputError: the number of inputs is not a multiple of `block`.
        ComputationError: a score is NaN or infinite.
    """
    require_finite(scores)
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


def pattern_of(mask: Mask) -> tuple[int, int] | None:
    """N and M of the finest N:M pattern that a mask has: exactly N kept in every M consecutive inputs, 0 < N < M ≤ 64.

    None where it has none. A mask without pattern may have one by chance only where a row holds very few groups.
    """
    outputs, inputs = mask.shape
    for block in range(2, min(inputs, MOST_BLOCK) + 1):
        keep = int(mask[0, :block].sum())
        if inputs % block == 0 and 0 < keep < block:
            groups = mask.reshape(outputs, inputs // block, block)
            # The first row alone rules most patterns out.
            if all(bool((rows.sum(dim=2) == keep).all()) for rows in (groups[:1], groups)):
                return keep, block
    return None


def cumulative_shares(scores: Scores) -> Float[Tensor, "out in"]:
    """Of every score: what it and the lower ones of its row are of the row's total, 0 to 1, in float64.

    Of equal scores the first counts as lower. In a row of zeros all shares are 0.
    """
    ascending, order = scores.double().sort(dim=1, stable=True)
    sums = ascending.cumsum(dim=1)
    totals = sums[:, -1:]
    shares = sums / torch.where(totals > 0, totals, 1)
    return torch.empty_like(shares).scatter_(1, order, shares)


def require_finite(values: Shaped[Tensor, "..."]) -> None:
    """Refuses NaN and infinite scores.

    Raises:
        ComputationError: there is one.
    """
    # Extremes carry NaN along: one pass, where a test of every number takes twenty times as long.
    if values.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(values))).all()):
        raise ComputationError("a pruning score is NaN or infinite: the weights or the activations are damaged")
