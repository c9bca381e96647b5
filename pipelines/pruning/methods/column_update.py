"""The column update of SparseGPT and GPTQ for one block, in numba (row by row) and in torch (all rows at once).

From left to right each weight is removed, rounded or kept, and later columns compensate its error.
"""

from itertools import pairwise

import numpy as np
import torch
from numba import njit
from torch import Tensor

from prunescope.pipelines.metrics.thread_map import in_parallel
from prunescope.pipelines.pruning.masks import keep_n_of_m

# With fewer updates per thread, threads cost more time than they save.
_MIN_UPDATES_PER_THREAD = 2**24


def sweep(
    current: Tensor,
    inverse: Tensor,
    kept: Tensor,
    pattern: tuple[int, int] = (0, 0),
    grid: tuple[Tensor, Tensor, Tensor] | None = None,
    steps: int = 0,
) -> tuple[Tensor, Tensor]:
    """Update a block of columns, and return the final weights and the mask.

    Args:
        current: weights that compensate the errors of all earlier columns, float32 (out, width).
        inverse: R⁻¹ of the block's columns, upper triangular, float32 (width, width).
        kept: True if a weight may stay, (out, width).
        pattern: N and M, or (0, 0) if `kept` is the mask. Of every M consecutive weights, N stay: those with the
            largest |w|/R⁻¹_jj when the sweep reaches the first of them, ties by index. Blocks begin at multiples of M.
        grid: scales and zeros, float32 (out, groups), and each column's group, int64 (width,); None without rounding.
        steps: largest code of the grid.
    """
    if current.device.type != "cpu":
        return eager(current, inverse, kept, pattern, grid, steps)
    rows, width = current.shape
    weight, keep = current.numpy().copy(), kept.numpy().copy()
    if grid is None:
        empty = np.zeros((rows, 1), np.float32)
        scales, zeros, column_groups = empty, empty, np.zeros(width, np.int64)
    else:
        scales, zeros, column_groups = (part.numpy() for part in grid)
    upper = np.ascontiguousarray(inverse.numpy())

    def update_rows(bounds: tuple[int, int]) -> None:
        rows = slice(*bounds)
        _sweep(weight[rows], upper, keep[rows], *pattern, scales[rows], zeros[rows], column_groups, steps)

    workers = min(torch.get_num_threads(), 1 + rows * width * width // _MIN_UPDATES_PER_THREAD)
    if workers == 1:
        update_rows((0, rows))
    else:
        edges = [rows * worker // workers for worker in range(workers + 1)]
        list(in_parallel(update_rows, pairwise(edges), current.device))
    return torch.from_numpy(weight), torch.from_numpy(keep)


@njit(fastmath={"contract"}, error_model="numpy", nogil=True, cache=True)
def _sweep(weight, upper, keep, n, m, scales, zeros, column_groups, steps) -> None:
    rows, width = weight.shape
    scores = np.empty(m, np.float32)
    for row in range(rows):
        w, stays = weight[row], keep[row]
        for j in range(width):
            if m and j % m == 0:
                _choose(w[j : j + m], upper[j : j + m, j : j + m], stays[j : j + m], n, scores)
            value = w[j]
            final = np.float32(0)
            if stays[j]:
                final = value
                if steps:
                    scale, zero = scales[row, column_groups[j]], zeros[row, column_groups[j]]
                    code = min(max(np.rint(value / scale) + zero, np.float32(0)), np.float32(steps))
                    final = (code - zero) * scale
            if final != value:
                error = (value - final) / upper[j, j]
                later, factors = w[j + 1 :], upper[j, j + 1 :]
                for k in range(len(later)):
                    later[k] -= error * factors[k]
                w[j] = final


@njit(error_model="numpy")
def _choose(w, upper, stays, n, scores) -> None:
    """Keep the n largest |w|/R⁻¹_jj of one group; weights that may not stay rank last."""
    for j in range(len(w)):
        scores[j] = abs(w[j]) / upper[j, j] if stays[j] else np.float32(-1)
    for j in range(len(w)):
        ahead = 0
        for i in range(len(w)):
            if scores[i] > scores[j] or (scores[i] == scores[j] and i < j):
                ahead += 1
        stays[j] = stays[j] and ahead < n


def eager(
    current: Tensor,
    inverse: Tensor,
    kept: Tensor,
    pattern: tuple[int, int] = (0, 0),
    grid: tuple[Tensor, Tensor, Tensor] | None = None,
    steps: int = 0,
) -> tuple[Tensor, Tensor]:
    """Update a block in torch; arguments and result are those of `sweep`."""
    weight, keep = current.clone(), kept.clone()
    n, m = pattern
    if grid is not None:
        scales, zeros, column_groups = grid
        scales, zeros = scales[:, column_groups], zeros[:, column_groups]
    for j in range(weight.shape[1]):
        if m and j % m == 0:
            group = slice(j, j + m)
            scores = (weight[:, group].abs() / inverse.diagonal()[group]).masked_fill(~kept[:, group], -1)
            keep[:, group] &= keep_n_of_m(scores, n, m)
        value = weight[:, j].clone()
        final = value
        if grid is not None:
            final = (((value / scales[:, j]).round() + zeros[:, j]).clamp(0, steps) - zeros[:, j]) * scales[:, j]
        final = torch.where(keep[:, j], final, 0)
        weight[:, j] = final
        weight[:, j + 1 :] -= ((value - final) / inverse[j, j])[:, None] * inverse[j, j + 1 :]
    return weight, keep
