"""Rows of `search_effects`, without the columns that name model and search."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from prunescope.pipelines.evaluation.search.effects import Effects
from prunescope.pipelines.evaluation.search.menu import Menu
from prunescope.pipelines.evaluation.search.treatments import Treatments
from prunescope.pipelines.metrics.mean_interval import half_width

SCHEMA: dict[str, Any] = {
    "layer": pl.Int16,
    **dict.fromkeys(("sublayer", "matrix", "treatment"), pl.String),
    **dict.fromkeys(("parameters_removed", "bytes_removed"), pl.Int64),
    **dict.fromkeys(("milliseconds_removed", "seconds"), pl.Float64),
    **dict.fromkeys(("kl_dense_pruned_nats", "kl_low", "kl_high", "one_minus_cos_h"), pl.Float64),
    "n_items": pl.Int32,
    "item_kl": pl.List(pl.Float32),
}
Row = Mapping[str, object]


def measured_rows(menu: Menu, effects: Effects) -> Iterator[Row]:
    """Yield one row per swap that was measured; all swaps count the same time."""
    means, errors = effects.mean(effects.kl)
    cosines = effects.mean(effects.one_minus_cos)[0]
    seen = np.isfinite(effects.kl)
    for index, swap in enumerate(effects.swaps):
        own = effects.kl[seen[:, index], index]
        half, mean = half_width(float(errors[index]), len(own)), float(means[index])
        yield _about(menu, *swap) | {
            "kl_dense_pruned_nats": mean,
            "one_minus_cos_h": float(cosines[index]),
            "kl_low": max(0.0, mean - half),
            "kl_high": mean + half,
            "n_items": len(own),
            "item_kl": own.tolist(),
            "seconds": effects.seconds / len(effects.swaps),
        }


def computed_rows(menu: Menu, effects: Effects, treatments: Treatments) -> Iterator[Row]:
    """Yield the rows of a menu's computed treatments: of each sublayer, and of each of its matrices alone."""
    names, menu = ("kl_dense_pruned_nats", "one_minus_cos_h"), treatments.known(menu)
    alone = [treatments.alone(menu, effects, by) for by in ("kl", "cos")]
    predicted = [treatments.predicted(menu, effects, by) for by in ("kl", "cos")]
    limits = (math.inf, 2.0)  # bounds of an extrapolation far from the measurement
    unmeasured = {"n_items": 0, "item_kl": list[float](), "seconds": 0.0}

    def row(label: str, treatment: str, values: Sequence[float]) -> Row:
        # A computed value has no interval of its own.
        bounded = (min(value, limit) for value, limit in zip(values, limits, strict=True))
        return _about(menu, label, treatment) | dict(zip(names, bounded, strict=True)) | unmeasured

    for option, reference in treatments.computed(menu):
        index = menu.places[option.sublayer, option.treatment]
        yield row(option.sublayer, option.treatment, [float(values[index]) for values in predicted])
        for group, factor in reference.terms(option.sublayer).items():
            if option.treatment != reference.probe:  # the probe was measured
                values = [factor * own[group.swap(reference.probe)] for own in alone]
                yield row(*group.swap(option.treatment), values)


def _about(menu: Menu, label: str, treatment: str) -> dict[str, object]:
    """Return sublayer, matrix and treatment of a row, and what is removed."""
    sublayer, (whole, _, part) = menu.sublayers[label], treatment.partition(" ")
    option = menu.options[menu.places[label, whole]]
    parameters, saved = menu.removed(label, treatment) if part else (option.parameters, option.bytes)
    return {
        "layer": sublayer.layer,
        "sublayer": sublayer.kind,
        "matrix": part or "all",
        "treatment": whole,
        "parameters_removed": parameters,
        "bytes_removed": saved,
        "milliseconds_removed": option.milliseconds,
    }
