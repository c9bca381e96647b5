"""Trials of a search: one measured allocation each, as rows of `search_trials`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from prunescope.pipelines.evaluation.search.menu import KEEP, Allocation

Numbers = NDArray[np.float64]
_TYPES: dict[str, pl.DataType | type[pl.DataType]] = {
    "trial": pl.Int32,
    "parent": pl.Int32,
    "strategy": pl.String,
    "move": pl.String,
    "remove": pl.Float64,
    "removed": pl.Float64,
    "treatments_json": pl.String,
    "exchange": pl.String,
    "predicted_nats": pl.Float64,
    "measured_nats": pl.Float64,
    "measured_low": pl.Float64,
    "measured_high": pl.Float64,
    "difference_nats": pl.Float64,
    "difference_low": pl.Float64,
    "difference_high": pl.Float64,
    "n_items": pl.Int32,
    "item_ids": pl.List(pl.String),
    "item_nats": pl.List(pl.Float32),
    "is_accepted": pl.Boolean,
    "is_result": pl.Boolean,
    "recipe": pl.String,
    "recipe_treatments_json": pl.String,
    "seconds": pl.Float64,
}
SCHEMA = pl.Schema(_TYPES)


@dataclass(frozen=True)
class Trial:
    """One measured allocation.

    Attributes:
        number: index in order, from 0.
        strategy: `searched`, `hidden`, `random` or `greedy`.
        move: how it was proposed: `uniform`, `sum`, `exchange`, `random` or `greedy`.
        remove: the target share.
        removed: the share that it removes.
        allocation: treatment of each sublayer.
        predicted: objective that the strategy predicted; None if it predicts none.
        nats: KL per item.
        cosines: 1 − cos of the head's input per item.
        parent: the trial that it changes.
        seconds: time to prune and measure it.
        is_accepted: whether it was the best of its strategy and target so far.
        is_result: whether the search returns it for its strategy and target.
        recipe: name of its recipe.
        recipe_treatments: treatments of that recipe, by sublayer or matrix.
    """

    number: int
    strategy: str
    move: str
    remove: float
    removed: float
    allocation: Allocation
    predicted: float | None
    nats: Numbers
    cosines: Numbers
    parent: "Trial | None" = None
    seconds: float = 0.0
    is_accepted: bool = False
    is_result: bool = False
    recipe: str | None = None
    recipe_treatments: Mapping[str, str] | None = None

    @property
    def objective(self) -> Numbers:
        """Objective of its strategy, per item."""
        return self.cosines if self.strategy == "hidden" else self.nats

    def row(self, item_ids: list[str]) -> dict[str, object]:
        """Return the row of `search_trials`."""
        low, mean, high = interval(self.nats)
        difference = (None, None, None) if self.parent is None else interval(self.nats - self.parent.nats)
        return {
            "trial": self.number,
            "parent": None if self.parent is None else self.parent.number,
            "strategy": self.strategy,
            "move": self.move,
            "remove": self.remove,
            "removed": self.removed,
            "treatments_json": treatments_json(self.allocation),
            "exchange": None if self.parent is None else exchange(self.parent.allocation, self.allocation),
            "predicted_nats": None if self.strategy == "hidden" else self.predicted,
            "measured_nats": mean,
            "measured_low": low,
            "measured_high": high,
            "difference_low": difference[0],
            "difference_nats": difference[1],
            "difference_high": difference[2],
            "n_items": len(item_ids),
            "item_ids": item_ids,
            "item_nats": self.nats.tolist(),
            "is_accepted": self.is_accepted,
            "is_result": self.is_result,
            "recipe": self.recipe,
            "recipe_treatments_json": None if self.recipe_treatments is None else json.dumps(self.recipe_treatments),
            "seconds": self.seconds,
        }


def interval(values: Numbers) -> tuple[float, float, float]:
    """Return low end, mean and high end of the 95 % interval of a mean over items, by Student's t."""
    mean, half = float(values.mean()), half_width(standard_error(values), len(values))
    return mean - half, mean, mean + half


def standard_error(values: Numbers) -> float:
    """Return the standard error of the mean of at least two values."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def half_width(error: float, items: int) -> float:
    """Return half the width of the 95 % interval that belongs to a standard error over items, by Student's t."""
    return float(stats.t.ppf(0.975, items - 1) * error)


def logarithms(values: Numbers, scale: Numbers | None = None) -> Numbers:
    """Return log((values + c) / 1.001), with c a thousandth of the mean over items; finite for zeros.

    The mean of logarithms says what is larger on most texts; a few texts decide an arithmetic mean. The constant c
    keeps values close to zero from deciding, and the divisor leaves equal values unchanged.

    Args:
        values: non-negative values, (items, …); NaN stays NaN.
        scale: values of the same shape whose mean sets c; None is the values themselves.
    """
    least = 1e-3 * np.nanmean(values if scale is None else scale, axis=0)
    found: Numbers = np.log((values + np.maximum(least, np.finfo(float).tiny)) / 1.001)
    return found


def log_ratios(values: Numbers, reference: Numbers) -> Numbers:
    """Return, per item, the difference of the `logarithms` of a value and its reference."""
    return logarithms(values, reference) - logarithms(reference)


def treatments_json(allocation: Allocation) -> str:
    """Return an allocation as JSON with sorted keys, without the sublayers that are kept."""
    return json.dumps({label: each for label, each in allocation.items() if each != KEEP}, sort_keys=True)


def exchange(before: Allocation, after: Allocation) -> str | None:
    """Return the difference, such as `mlp.3: sparsegpt-30 → drop`; None if there is none."""
    labels = sorted({*before, *after}, key=lambda label: (int(label.rpartition(".")[2]), label))
    changes = [
        f"{label}: {before.get(label, KEEP)} → {after.get(label, KEEP)}"
        for label in labels
        if before.get(label, KEEP) != after.get(label, KEEP)
    ]
    return "; ".join(changes) or None
