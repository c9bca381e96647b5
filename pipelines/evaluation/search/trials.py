"""Trials of a search: one measured allocation each, as rows of `search_trials`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from prunescope.pipelines.evaluation.search.menu import KEEP, Allocation
from prunescope.pipelines.metrics.mean_interval import Numbers, interval

SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("trial", "parent", "n_items"), pl.Int32),
    **dict.fromkeys(("strategy", "move", "treatments_json", "exchange"), pl.String),
    **dict.fromkeys(("recipe", "recipe_treatments_json"), pl.String),
    **dict.fromkeys(("remove", "removed", "seconds"), pl.Float64),
    **dict.fromkeys(("predicted_nats", "measured_nats", "measured_low", "measured_high"), pl.Float64),
    **dict.fromkeys(("difference_nats", "difference_low", "difference_high"), pl.Float64),
    "item_ids": pl.List(pl.String),
    "item_nats": pl.List(pl.Float32),
    **dict.fromkeys(("is_accepted", "is_result"), pl.Boolean),
}
# Fields of a trial that are columns of the same name.
_COPIED = ("strategy", "move", "remove", "removed", "is_accepted", "is_result", "recipe", "seconds")


@dataclass(frozen=True)
class Trial:
    """One measured allocation.

    Attributes:
        number: index in order, from 0.
        strategy: `searched`, `hidden`, `random` or `greedy`.
        move: how it was proposed: `uniform`, `sum`, `exchange`, `random`, `greedy`, `start` or `restore`; `held_out`
            if it was measured on items that proposed nothing.
        remove: the target share; `removed` is the share that it removes.
        predicted: objective that the strategy predicted; None if it predicts none.
        nats: KL per item; `cosines` is 1 − cos of the head's input per item.
        item_ids: names of the items.
        parent: the trial that it changes.
        is_accepted: whether it was the best of its strategy and target so far.
        is_result: whether the search returns it for its strategy and target, as `recipe` with `recipe_treatments` by
            sublayer or matrix.
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
    recipe_treatments: Mapping[str, object] | None = None
    item_ids: tuple[str, ...] = ()

    @property
    def objective(self) -> Numbers:
        """Objective of its strategy, per item."""
        return self.cosines if self.strategy == "hidden" else self.nats

    def row(self) -> dict[str, object]:
        """Return the row of `search_trials`."""
        low, mean, high = interval(self.nats)
        difference = (None, None, None) if self.parent is None else interval(self.nats - self.parent.nats)
        return {
            "trial": self.number,
            "parent": None if self.parent is None else self.parent.number,
            **{name: getattr(self, name) for name in _COPIED},
            "treatments_json": treatments_json(self.allocation),
            "exchange": None if self.parent is None else exchange(self.parent.allocation, self.allocation),
            "predicted_nats": None if self.strategy == "hidden" else self.predicted,
            "measured_nats": mean,
            "measured_low": low,
            "measured_high": high,
            "difference_low": difference[0],
            "difference_nats": difference[1],
            "difference_high": difference[2],
            "n_items": len(self.item_ids),
            "item_ids": self.item_ids,
            "item_nats": self.nats.tolist(),
            "recipe_treatments_json": None if self.recipe_treatments is None else json.dumps(self.recipe_treatments),
        }


def logarithms(values: Numbers, scale: Numbers | None = None) -> Numbers:
    """Return log((values + c) / 1.001), with c a thousandth of the mean over items; finite for zeros.

    The mean of logarithms says what is larger on most texts; a few texts decide an arithmetic mean. The constant c
    keeps values close to zero from deciding, and the divisor leaves equal values unchanged. Values are non-negative,
    (items, …); NaN stays NaN. The mean of `scale`, of the same shape (None: the values themselves), sets c.
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
    pairs = [(label, before.get(label, KEEP), after.get(label, KEEP)) for label in labels]
    return "; ".join(f"{label}: {old} → {new}" for label, old, new in pairs if old != new) or None
