"""Exact masks from scores, also with ties. True keeps a weight."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError

Scores = Float[Tensor, "out in"]
Mask = Bool[Tensor, "out in"]
# Largest M of an N:M pattern.
MAX_BLOCK = 64


def keep_share(scores: Scores, sparsity: float, group: str) -> Mask:
    """Drop exactly round(sparsity × n) of the lowest scores in each group of n.

    Equal scores at the threshold are dropped in index order until the count is exact. `scores <= threshold` alone would
    drop too many quantized weights, which have many ties. A group is the `matrix` (all scores together) or an `output`
    (each row separately).

    Raises:
        InputError: a share below 1 rounds to a whole group.
        ComputationError: a score is NaN or infinite.
    """
    require_finite(scores)
    rows = scores.reshape(1, -1) if group == "matrix" else scores
    count = share_of(rows.shape[1], sparsity)
    if count == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    if rows.device.type == "cpu":  # numpy's introselect is several times faster than torch's kthvalue on a CPU
        threshold = torch.from_numpy(np.partition(rows.numpy(), count - 1, axis=1)[:, count - 1 : count])
    else:
        threshold = rows.kthvalue(count, dim=1, keepdim=True).values
    dropped = rows <= threshold
    # Every row drops at least `count` here, so the total shows whether any row has surplus ties.
    if int(dropped.count_nonzero()) > len(rows) * count:
        surplus = dropped.sum(dim=1) - count
        crowded = surplus.nonzero().squeeze(1)
        tied = rows[crowded] == threshold[crowded]
        spared = tied.sum(dim=1) - surplus[crowded]
        dropped[crowded] &= ~(tied & (tied.cumsum(dim=1) > spared[:, None]))
    return ~dropped.reshape(scores.shape)


def share_of(size: int, sparsity: float) -> int:
    """Return how many weights a share of a group is, rounded; InputError if a share below 1 rounds to the whole."""
    count = round(sparsity * size)
    if count == size and sparsity < 1:
        raise InputError(f"sparsity {sparsity:g} of a group of {size} weights would drop all of them; lower it")
    return count


def keep_n_of_m(scores: Scores, keep: int, block: int) -> Mask:
    """Keep exactly the `keep` highest of every `block` consecutive inputs (N:M); on ties the first wins.

    Raises:
        InputError: the number of inputs is not a multiple of `block`.
        ComputationError: a score is NaN or infinite.
    """
    require_finite(scores)
    outputs, inputs = scores.shape
    if inputs % block:
        raise InputError(f"{keep}:{block} needs a multiple of {block} inputs, this module has {inputs}")
    # A score's rank is the number of scores ahead of it, which is exact on ties and faster than sorting every group.
    # The transpose lets each comparison read contiguous memory.
    columns = scores.reshape(-1, block).T.contiguous()
    ahead = torch.zeros(columns.shape, dtype=torch.int8, device=columns.device)
    for first in range(block):
        for second in range(first + 1, block):
            wins = columns[first] >= columns[second]
            ahead[second] += wins
            ahead[first] += ~wins
    return (ahead < keep).T.reshape(outputs, inputs)


def pattern_of(mask: Mask) -> tuple[int, int] | None:
    """Return N and M of a mask's finest N:M pattern (N of every M consecutive inputs stay, 0 < N < M ≤ 64), or None.

    A mask has a pattern by chance only if its rows hold very few groups.
    """
    outputs, inputs = mask.shape
    for block in range(2, min(inputs, MAX_BLOCK) + 1):
        keep = int(mask[0, :block].sum())
        if inputs % block == 0 and 0 < keep < block:
            groups = mask.reshape(outputs, inputs // block, block)
            # The first row alone excludes most patterns.
            if all(bool((rows.sum(dim=2) == keep).all()) for rows in (groups[:1], groups)):
                return keep, block
    return None


def cumulative_shares(scores: Scores) -> Float[Tensor, "out in"]:
    """Return the share of its row's total that each score and all lower ones hold together, 0 to 1, in float64.

    Among equal scores the first counts as lower. In a row of zeros all shares are 0.
    """
    ascending, order = scores.double().sort(dim=1, stable=True)
    sums = ascending.cumsum(dim=1)
    totals = sums[:, -1:]
    shares = sums / torch.where(totals > 0, totals, 1)
    return torch.empty_like(shares).scatter_(1, order, shares)


def require_finite(values: Shaped[Tensor, "..."], what: str = "a pruning score") -> None:
    """Raise a ComputationError if a value is NaN or infinite; `what` names it in the message."""
    # If any value is NaN, so are the extremes: one pass, twenty times as fast as testing every value.
    if values.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(values))).all()):
        raise ComputationError(f"{what} is NaN or infinite: the weights or the activations are damaged")
