"""Slow references of SparseGPT and GPTQ: float64, an explicit inverse, one column at a time."""

import torch
from torch import Tensor


class ObsReference:
    """The optimal brain surgeon in float64, with an explicit inverse from which each finished column is removed."""

    def __init__(self, weight: Tensor, x: Tensor, damping: float) -> None:
        gram = x.double().T @ x.double()
        dead = gram.diagonal() == 0
        gram.diagonal().add_(damping * gram.diagonal()[~dead].mean())
        self.weight = weight.double().clone()
        self.weight[:, dead] = 0
        self.inverse = torch.linalg.inv(gram)
        self.left = list(range(weight.shape[1]))

    def error_at(self, column: int) -> float:
        """Return [H⁻¹]_jj among the remaining columns."""
        return float(self.inverse[self.left.index(column), self.left.index(column)])

    def settle(self, column: int, values: Tensor) -> None:
        """Set a column's values and let all others compensate."""
        at = self.left.index(column)
        row = self.inverse[at]
        shift = (self.weight[:, column] - values) / row[at]
        for place, other in enumerate(self.left):
            self.weight[:, other] -= shift * row[place]
        self.weight[:, column] = values
        rest = [place for place in range(len(self.left)) if place != at]
        self.inverse = (self.inverse - row[:, None] * row / row[at])[rest][:, rest]
        self.left.pop(at)


def slow_sparsegpt(
    weight: Tensor,
    x: Tensor,
    sparsity: float,
    width: int,
    kept: Tensor | None = None,
    pattern: tuple[int, int] = (0, 0),
) -> tuple[Tensor, Tensor]:
    obs = ObsReference(weight, x, 0.01)
    outputs, inputs = weight.shape
    keep = torch.ones(outputs, inputs, dtype=torch.bool) if kept is None else kept.clone()
    fixed = kept is not None
    for column in range(inputs):
        if not fixed and not pattern[1] and column % width == 0:
            # Scores of a whole block on the weights as they are when the sweep reaches it.
            stop = min(column + width, inputs)
            ahead = ObsReference(weight, x, 0.01)
            ahead.weight, ahead.inverse, ahead.left = obs.weight.clone(), obs.inverse, list(obs.left)
            scores = torch.zeros(outputs, stop - column).double()
            for each in range(column, stop):
                scores[:, each - column] = obs.weight[:, each] ** 2 / ahead.error_at(each)
                ahead.settle(each, ahead.weight[:, each])
            order = scores.reshape(-1).argsort(stable=True)
            count = round(sparsity * outputs * stop) - round(sparsity * outputs * column)
            block = torch.ones(scores.numel(), dtype=torch.bool)
            block[order[:count]] = False
            keep[:, column:stop] = block.reshape(scores.shape)
        if pattern[1] and column % pattern[1] == 0:
            n, m = pattern
            ahead = ObsReference(weight, x, 0.01)
            ahead.inverse, ahead.left = obs.inverse, list(obs.left)
            errors = []
            for each in range(column, column + m):
                errors.append(ahead.error_at(each))
                ahead.settle(each, ahead.weight[:, each])
            scores = obs.weight[:, column : column + m] ** 2 / torch.tensor(errors).double()
            best = scores.argsort(dim=1, descending=True, stable=True)[:, :n]
            keep[:, column : column + m] = torch.zeros_like(scores, dtype=torch.bool).scatter(1, best, True)
        obs.settle(column, torch.where(keep[:, column], obs.weight[:, column], 0))
    return obs.weight, keep


def slow_grid(part: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    low, high = part.amin(dim=1).clamp(max=0), part.amax(dim=1).clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    return scale, (-low / scale).round()


def slow_gptq(weight: Tensor, x: Tensor, bits: int, group: int | None, order: list[int] | None = None) -> Tensor:
    obs = ObsReference(weight, x, 0.01)
    inputs = weight.shape[1]
    size = group or inputs
    grids = {g: slow_grid(obs.weight[:, g * size : (g + 1) * size], bits) for g in range(-(-inputs // size))}
    for column in order or range(inputs):
        if group and order is None and column % size == 0:
            grids[column // size] = slow_grid(obs.weight[:, column : column + size], bits)
        scale, zero = grids[column // size]
        code = ((obs.weight[:, column] / scale).round() + zero).clamp(0, 2**bits - 1)
        obs.settle(column, (code - zero) * scale)
    return obs.weight
