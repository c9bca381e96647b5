"""Rows of `search_effects`, without the columns that name model and search."""

from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl

from prunescope.pipelines.evaluation.search.effects import Effects
from prunescope.pipelines.evaluation.search.menu import Menu
from prunescope.pipelines.evaluation.search.treatments import Treatments
from prunescope.pipelines.evaluation.search.trials import half_width

_TYPES: dict[str, pl.DataType | type[pl.DataType]] = {
    "layer": pl.Int16,
    "sublayer": pl.String,
    "matrix": pl.String,
    "treatment": pl.String,
    "parameters_removed": pl.Int64,
    "bytes_removed": pl.Int64,
    "milliseconds_removed": pl.Float64,
    "kl_dense_pruned_nats": pl.Float64,
    "kl_low": pl.Float64,
    "kl_high": pl.Float64,
    "one_minus_cos_h": pl.Float64,
    "n_items": pl.Int32,
    "item_kl": pl.List(pl.Float32),
    "seconds": pl.Float64,
}
SCHEMA = pl.Schema(_TYPES)
Row = Mapping[str, object]


def measured_rows(menu: Menu, effects: Effects, seconds: float) -> Iterator[Row]:
    """Yield a row of each swap that was measured.

    Args:
        menu: with the treatments of the swaps.
        effects: the measurements.
        seconds: that each took.
    """
    means, errors = effects.mean(effects.kl)
    cosines = effects.mean(effects.one_minus_cos)[0]
    seen = np.isfinite(effects.kl)
    for index, swap in enumerate(effects.swaps):
        own = effects.kl[seen[:, index], index]
        half, mean = half_width(float(errors[index]), len(own)), float(means[index])
        interval = {"kl_low": max(0.0, mean - half), "kl_high": mean + half}
        values = {"kl_dense_pruned_nats": mean, "one_minus_cos_h": float(cosines[index])}
        told = {"n_items": len(own), "item_kl": own.tolist(), "seconds": seconds}
        yield _about(menu, *swap) | values | interval | told


def computed_rows(menu: Menu, effects: Effects, treatments: Treatments) -> Iterator[Row]:
    """Yield the rows of a menu's split treatments: of each sublayer, and of each of its matrices alone.

    Args:
        menu: with these treatments.
        effects: the measurements from which theirs are computed.
        treatments: how.
    """
    names = ("kl_dense_pruned_nats", "one_minus_cos_h")
    nats, cosines = (treatments.predicted(menu, effects, by)[0] for by in ("kl", "cos"))
    told = {"n_items": 0, "item_kl": list[float](), "seconds": 0.0}
    columns = {swap: index for index, swap in enumerate(effects.swaps)}
    alone = [effects.mean(values)[0] for values in (effects.kl, effects.one_minus_cos)]
    for option, *values in zip(menu.options, nats.tolist(), cosines.tolist(), strict=True):
        if treatments.is_split(option.treatment):
            # A computed value has no interval of its own.
            yield _about(menu, option.sublayer, option.treatment) | dict(zip(names, values, strict=True)) | told
            for part, swap, factor in treatments.of_parts(option):
                own = [factor * float(mean[columns[swap]]) for mean in alone]
                about = _about(menu, option.sublayer, part.treated(option.treatment))
                yield about | dict(zip(names, own, strict=True)) | told


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
