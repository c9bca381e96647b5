"""ROC curves of a sublayer's local Var_p(Δz) as a predictor of KL spikes at the output (q01_spike_predictors)."""

from functools import partial
from typing import Any, cast

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme

TITLE = "Which layers' logit shifts foretell a KL spike at the output"
CAPTION = (
    "A spike is a position whose teacher-forced output KL is above the variant's own 90th percentile. Above: how well "
    "each sublayer's Var_p(Δz), measured alone, ranks spikes before other positions. The measure is the area under its "
    "ROC curve; 0.5, the grey line, is chance. Intervals are 95 % over prompts, if at least three prompts have spikes. "
    "Below: the ROC curves of the attention and the MLP sublayer with the largest area. Because they are selected as "
    "the best, they look better than they are. A curve has at most about 60 of its thresholds."
)
NEEDS = "no variant has three KL spikes and a sublayer measured alone"

_TITLES = list(theme.SUBLAYER_TITLES.values())
_COLOR = theme.nominal(alt.Color, "sublayer", _TITLES, [theme.BLUE, theme.VERMILLION], legend=theme.POINTS)
_SHAPE = theme.nominal(alt.Shape, "sublayer", _TITLES, ["circle", "triangle-up"])
_NUMBERS = "auc auc_low auc_high n_spikes n_prompts"
_CHANCE = theme.DASHED | {"color": theme.GREY}


def _areas(areas: pl.DataFrame, order: list[str]) -> theme.AnyChart:
    x = theme.whole_axis("layer", "layer", areas["layer"])
    y = partial(alt.Y, title="area under the ROC curve")
    base = theme.Chart().encode(x=x, color=_COLOR)
    chance = theme.Chart().transform_aggregate(rows="count()", groupby=["variant"]).mark_rule(**_CHANCE)
    interval = theme.valid(base, "auc_low").mark_rule(opacity=0.55)
    chart = alt.layer(
        chance.encode(y=alt.datum(0.5)),
        interval.encode(**theme.span(y("auc_low:Q"), "auc_high:Q")),
        base.mark_point(filled=True, size=22, opacity=0.9).encode(
            y=y("auc:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5)),
            shape=_SHAPE,
            tooltip=theme.tooltip(f"variant:N layer sublayer:N {_NUMBERS}"),
        ),
        data=theme.rows(areas.select("variant", "layer", "sublayer", *_NUMBERS.split())),
    )
    return _by_variant(chart.properties(width=190, height=95), order)


def _curves(curves: pl.DataFrame, order: list[str]) -> theme.AnyChart:
    rate = alt.Scale(domain=[0, 1], nice=False)
    ticks: dict[str, Any] = {"values": [0, 0.5, 1], "format": "~g"}
    x_axis, y_axis = alt.Axis(**ticks, grid=False), alt.Axis(**ticks)
    x = alt.X("false_positive_rate:Q", title="false positive rate", scale=rate, axis=x_axis)
    y = alt.Y("true_positive_rate:Q", title="true positive rate", scale=rate, axis=y_axis)
    base = theme.Chart().encode(color=_COLOR)
    text = theme.valid(base, "text").mark_text(align="right", fontSize=10, baseline="bottom")
    chart = alt.layer(
        theme.Chart().transform_filter("datum.is_end").mark_line(**_CHANCE).encode(x=x, y=y),
        base.mark_line(strokeWidth=1.8).encode(
            x=x,
            y=y,
            detail=alt.Detail("curve:N"),
            order=alt.Order("place:Q"),
            tooltip=theme.tooltip("variant:N curve:N false_positive_rate true_positive_rate"),
        ),
        text.encode(x=alt.datum(0.98), y=alt.Y("at:Q", title="true positive rate"), text=alt.Text("text:N")),
        data=theme.rows(curves),
    )
    return _by_variant(chart.properties(width=190, height=120), order)


def _by_variant(chart: theme.AnyChart, order: list[str]) -> theme.AnyChart:
    grid = theme.faceted(chart, "variant", order, theme.balanced(len(order), 5))
    return cast(theme.AnyChart, grid.resolve_axis(x="independent"))


def _with_ends(named: pl.DataFrame) -> pl.DataFrame:
    """Return the curves with the origin added, a row with each curve's name, and the two ends of the diagonal."""
    key = ["variant", "sublayer", "layer"]
    rates = ["false_positive_rate", "true_positive_rate"]
    points = named.filter(pl.col("true_positive_rate").is_not_null()).select(*key, *rates)
    starts = points.select(key).unique(maintain_order=True).with_columns(pl.lit(0.0).alias(rate) for rate in rates)
    area = pl.col("auc").map_elements("{:.2f}".format, pl.String)
    best = named.filter(pl.col("auc").is_not_null() & pl.col("is_best")).select(
        *key,
        pl.format("{} {}: {}", "sublayer", "layer", area).alias("text"),
        pl.when(pl.col("sublayer") == _TITLES[0]).then(0.03).otherwise(0.13).alias("at"),
    )
    curves = pl.concat([starts, points], how="vertical_relaxed").with_columns(
        pl.format("{} {}", "sublayer", "layer").alias("curve"),
        pl.int_range(pl.len()).over("variant", "sublayer").alias("place"),
        pl.lit(value=False).alias("is_end"),
    )
    variants = starts.select("variant").unique(maintain_order=True)
    ends = [
        variants.with_columns(pl.lit(value=True).alias("is_end"), *(pl.lit(end).alias(rate) for rate in rates))
        for end in (0.0, 1.0)
    ]
    return pl.concat([curves, *ends, best], how="diagonal_relaxed")


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw rows of one model and lens: the area of every sublayer, then the best two curves of each variant."""
    named = theme.with_variant(frame).with_columns(pl.col("sublayer").cast(pl.String).replace(theme.SUBLAYER_TITLES))
    order = theme.names(named, "variant")
    parts = [_areas(named.filter(pl.col("auc").is_not_null()), order)]
    if named["true_positive_rate"].count():
        parts.append(_curves(_with_ends(named), order))
    without = "" if frame["auc_low"].count() else "no intervals: fewer than three prompts with spikes"
    names = frame["left_out"].drop_nulls()
    left_out = f"left out, fewer than three spikes where layers were measured: {names[0]}" if len(names) else ""
    return alt.vconcat(*parts), [theme.about(frame, "model lens"), without, left_out]
