"""Exchanges of kept and removed weights that bring the mean output of every row closer to the dense one's.

The same in numba, one row at a time, and in torch, all rows at a time. What the numbers mean is `dsnot.py`'s.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from torch import Tensor


@dataclass(frozen=True)
class Channels:
    """What is known of each input x, float64.

    Attributes:
        mean: E[x].
        gain: what a weight's worth of coming back is multiplied with; NaN or infinite where the mean is 0.
        size: what its worth of staying is multiplied with.
    """

    mean: Tensor
    gain: Tensor
    size: Tensor


def exchange(
    dense: Tensor, weight: Tensor, kept: Tensor, channels: Channels, block: int, cycles: int, threshold: float
) -> tuple[Tensor, Tensor, int]:
    """Exchanges weights of every row.

    Args:
        dense: what weights that come back are, (out, in).
        weight: what they are now; 0 where they are not kept.
        kept: True where they are kept.
        channels: of the inputs.
        block: both weights of an exchange lie in one group of so many consecutive inputs.
        cycles: exchanges of a row, at most.
        threshold: rows whose mean error is no larger are left.

    Returns:
        The weights, of which those that are not kept say nothing; which are kept; how many exchanges it took.
    """
    if weight.device.type != "cpu":
        return eager(dense, weight, kept, channels, block, cycles, threshold)
    if weight.dtype not in {torch.float32, torch.float64}:  # numba has no others
        found, mask, count = exchange(dense.float(), weight.float(), kept, channels, block, cycles, threshold)
        return found.to(weight.dtype), mask, count
    now, there = weight.contiguous().numpy().copy(), kept.numpy().copy()
    numbers = (part.numpy() for part in (channels.mean, channels.gain, channels.size))
    count = _exchange(dense.contiguous().numpy(), now, there, *numbers, block, cycles, threshold)
    return torch.from_numpy(now), torch.from_numpy(there), int(count)


@njit(error_model="numpy", nogil=True, cache=True)
def _exchange(dense, weight, kept, mean, gain, size, block, cycles, threshold) -> int:
    """`exchange` of all rows; `weight` and `kept` leave with the result."""
    rows, inputs = weight.shape
    count = 0
    for row in range(rows):
        whole, now, there = dense[row], weight[row], kept[row]
        error = 0.0
        for k in range(inputs):
            error += (whole[k] - now[k]) * mean[k]
        for _ in range(cycles):
            if not abs(error) > threshold:
                break
            sign = 1.0 if error > 0 else -1.0
            best, comes, goes = -np.inf, -1, -1
            for start in range(0, inputs, block):
                most, least, grown, pruned = -np.inf, np.inf, -1, -1
                for k in range(start, start + block):
                    if there[k]:
                        if sign * now[k] * mean[k] < 0 and abs(now[k]) * size[k] < least:
                            least, pruned = abs(now[k]) * size[k], k
                    elif sign * whole[k] * mean[k] > 0 and sign * whole[k] * gain[k] > most:
                        most, grown = sign * whole[k] * gain[k], k
                if grown >= 0 and pruned >= 0 and most > best:
                    best, comes, goes = most, grown, pruned
            if comes < 0:
                break
            after = error - whole[comes] * mean[comes] + now[goes] * mean[goes]
            if not abs(after) < abs(error):
                break
            error = after
            now[comes], there[comes], there[goes] = whole[comes], True, False
            count += 1
    return count


def eager(
    dense: Tensor, weight: Tensor, kept: Tensor, channels: Channels, block: int, cycles: int, threshold: float
) -> tuple[Tensor, Tensor, int]:
    """`exchange` in torch."""
    weight, kept = weight.clone(), kept.clone()
    adds = dense * channels.mean  # what a weight that comes back adds to its row's mean output
    error = (adds - weight * channels.mean).sum(dim=1)
    active = (error.abs() > threshold).nonzero().squeeze(1)
    count = 0
    for _ in range(cycles):
        if not len(active):
            break
        sign = error[active].sign()[:, None]
        now, there = weight[active] * channels.mean, kept[active]
        goes = there & (sign * now < 0)
        least = (
            (weight[active].abs() * channels.size).masked_fill(~goes, torch.inf).unflatten(1, (-1, block)).min(dim=2)
        )
        comes = ~there & (sign * adds[active] > 0)
        # Only into groups from which one can go.
        comes &= least.values.isfinite().repeat_interleave(block, dim=1)
        grown = (sign * dense[active] * channels.gain).masked_fill(~comes, -torch.inf).argmax(dim=1)
        group = grown // block
        pruned = group * block + least.indices.gather(1, group[:, None]).squeeze(1)
        each = torch.arange(len(active), device=active.device)
        after = error[active] - adds[active, grown] + now[each, pruned]
        done = comes[each, grown] & (after.abs() < error[active].abs())
        active, grown, pruned = active[done], grown[done], pruned[done]
        weight[active, grown] = dense[active, grown]
        kept[active, grown] = True
        kept[active, pruned] = False
        error[active] = after[done]
        count += len(active)
        active = active[error[active].abs() > threshold]
    return weight, kept, count
