"""The exchange loop of DSnoT, in numba (row by row) and in torch (all rows at once); `dsnot.py` explains the scores."""

from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from torch import Tensor


@dataclass(frozen=True)
class Channels:
    """Statistics of each input x, float64: its mean E[x], and two factors.

    `gain` is that of a removed weight's score for returning, NaN or infinite if the mean is 0; `size` is that of a kept
    weight's score for staying.
    """

    mean: Tensor
    gain: Tensor
    size: Tensor


def exchange(
    dense: Tensor, weight: Tensor, kept: Tensor, channels: Channels, block: int, cycles: int, threshold: float
) -> tuple[Tensor, Tensor, int]:
    """Exchange weights of every row; return them (undefined if removed), the new `kept`, and the number of exchanges.

    Weights that return have the values of `dense`, (out, in). Both weights of an exchange are in one group of `block`
    consecutive inputs. A row has at most `cycles` exchanges, and none while its mean error is at most `threshold`.
    """
    if weight.device.type != "cpu":
        return eager(dense, weight, kept, channels, block, cycles, threshold)
    if weight.dtype not in {torch.float32, torch.float64}:  # numba has no other float types
        values, mask, count = exchange(dense.float(), weight.float(), kept, channels, block, cycles, threshold)
        return values.to(weight.dtype), mask, count
    current, mask = weight.contiguous().numpy().copy(), kept.numpy().copy()
    statistics = (part.numpy() for part in (channels.mean, channels.gain, channels.size))
    count = _exchange(dense.contiguous().numpy(), current, mask, *statistics, block, cycles, threshold)
    return torch.from_numpy(current), torch.from_numpy(mask), int(count)


@njit(error_model="numpy", nogil=True, cache=True)
def _exchange(dense, weight, kept, mean, gain, size, block, cycles, threshold) -> int:
    rows, inputs = weight.shape
    count = 0
    for row in range(rows):
        target, current, mask = dense[row], weight[row], kept[row]
        error = 0.0
        for k in range(inputs):
            error += (target[k] - current[k]) * mean[k]
        for _ in range(cycles):
            if not abs(error) > threshold:
                break
            sign = 1.0 if error > 0 else -1.0
            best, grow, prune = -np.inf, -1, -1
            for start in range(0, inputs, block):
                most, least, grown, pruned = -np.inf, np.inf, -1, -1
                for k in range(start, start + block):
                    if mask[k]:
                        if sign * current[k] * mean[k] < 0 and abs(current[k]) * size[k] < least:
                            least, pruned = abs(current[k]) * size[k], k
                    elif sign * target[k] * mean[k] > 0 and sign * target[k] * gain[k] > most:
                        most, grown = sign * target[k] * gain[k], k
                if grown >= 0 and pruned >= 0 and most > best:
                    best, grow, prune = most, grown, pruned
            if grow < 0:
                break
            after = error - target[grow] * mean[grow] + current[prune] * mean[prune]
            if not abs(after) < abs(error):
                break
            error = after
            current[grow], mask[grow], mask[prune] = target[grow], True, False
            count += 1
    return count


def eager(
    dense: Tensor, weight: Tensor, kept: Tensor, channels: Channels, block: int, cycles: int, threshold: float
) -> tuple[Tensor, Tensor, int]:
    """Exchange weights in torch; arguments and result are those of `exchange`."""
    weight, kept = weight.clone(), kept.clone()
    gains = dense * channels.mean  # what a returning weight adds to its row's mean output
    error = (gains - weight * channels.mean).sum(dim=1)
    active = (error.abs() > threshold).nonzero().squeeze(1)
    count = 0
    for _ in range(cycles):
        if not len(active):
            break
        sign = error[active].sign()[:, None]
        current, mask = weight[active] * channels.mean, kept[active]
        can_prune = mask & (sign * current < 0)
        sizes = (weight[active].abs() * channels.size).masked_fill(~can_prune, torch.inf)
        least = sizes.unflatten(1, (-1, block)).min(dim=2)
        # A weight can return only into a group from which another one can be removed.
        can_grow = ~mask & (sign * gains[active] > 0)
        can_grow &= least.values.isfinite().repeat_interleave(block, dim=1)
        grown = (sign * dense[active] * channels.gain).masked_fill(~can_grow, -torch.inf).argmax(dim=1)
        group = grown // block
        pruned = group * block + least.indices.gather(1, group[:, None]).squeeze(1)
        rows = torch.arange(len(active), device=active.device)
        after = error[active] - gains[active, grown] + current[rows, pruned]
        is_better = can_grow[rows, grown] & (after.abs() < error[active].abs())
        active, grown, pruned = active[is_better], grown[is_better], pruned[is_better]
        weight[active, grown] = dense[active, grown]
        kept[active, grown] = True
        kept[active, pruned] = False
        error[active] = after[is_better]
        count += len(active)
        active = active[error[active].abs() > threshold]
    return weight, kept, count
