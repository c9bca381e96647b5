"""ROC curves of a sublayer's local Var_p(Δz) as a predictor of KL spikes at the output (q01_spike_predictors)."""

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

_TITLES = list(theme.SUBLAYER_TITLES.values())
_LEGEND = alt.Legend(symbolOpacity=1, symbolSize=70)
_COLOR = theme.nominal(alt.Color, "sublayer", _TITLES, [theme.BLUE, theme.VERMILLION], legend=_LEGEND)
_SHAPE = theme.nominal(alt.Shape, "sublayer", _TITLES, ["circle", "triangle-up"])
_NUMBERS = ("auc", "auc_low", "auc_high", "n_spikes", "n_prompts")


def _areas(areas: pl.DataFrame, order: list[str]) -> theme.AnyChart:
    x = theme.whole_axis("layer", "layer", areas["layer"])
    y = alt.Y("auc:Q", title="area under the ROC curve", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    base = theme.Chart().encode(x=x, color=_COLOR)
    chart = alt.layer(
        theme.Chart()
        .transform_aggregate(rows="count()", groupby=["variant"])
        .mark_rule(strokeDash=[4, 3], strokeWidth=1, color=theme.GREY)
        .encode(y=alt.datum(0.5)),
        base.transform_filter("isValid(datum.auc_low)")
        .mark_rule(opacity=0.55)
        .encode(y=alt.Y("auc_low:Q", title="area under the ROC curve"), y2=alt.Y2("auc_high:Q")),
        base.mark_point(filled=True, size=22, opacity=0.9).encode(
            y=y,
            shape=_SHAPE,
            tooltip=theme.tooltip("variant:N", "layer:Q", "sublayer:N", *(f"{name}:Q" for name in _NUMBERS)),
        ),
        data=theme.rows(areas.select("variant", "layer", "sublayer", *_NUMBERS)),
    )
    return _by_variant(chart.properties(width=190, height=95), order)


def _curves(curves: pl.DataFrame, order: list[str]) -> theme.AnyChart:
    rate = alt.Scale(domain=[0, 1], nice=False)
    x = alt.X(
        "false_positive_rate:Q",
        title="false positive rate",
        scale=rate,
        axis=alt.Axis(values=[0, 0.5, 1], format="~g", grid=False),
    )
    y = alt.Y(
        "true_positive_rate:Q", title="true positive rate", scale=rate, axis=alt.Axis(values=[0, 0.5, 1], format="~g")
    )
    base = theme.Chart().encode(color=_COLOR)
    chart = alt.layer(
        theme.Chart()
        .transform_filter("datum.is_end")
        .mark_line(strokeDash=[4, 3], strokeWidth=1, color=theme.GREY)
        .encode(x=x, y=y),
        base.mark_line(strokeWidth=1.8).encode(
            x=x,
            y=y,
            detail=alt.Detail("curve:N"),
            order=alt.Order("place:Q"),
            tooltip=theme.tooltip("variant:N", "curve:N", "false_positive_rate:Q", "true_positive_rate:Q"),
        ),
        base.transform_filter("isValid(datum.text)")
        .mark_text(align="right", fontSize=10, baseline="bottom")
        .encode(x=alt.datum(0.98), y=alt.Y("at:Q", title="true positive rate"), text=alt.Text("text:N")),
        data=theme.rows(curves),
    )
    return _by_variant(chart.properties(width=190, height=120), order)


def _by_variant(chart: alt.LayerChart | alt.FacetChart, order: list[str]) -> theme.AnyChart:
    facet = alt.Facet("variant:N", title=None, sort=order)
    faceted: theme.AnyChart = chart.facet(facet=facet, columns=theme.balanced(len(order), 5)).resolve_axis(
        x="independent"
    )
    return faceted


def _with_ends(named: pl.DataFrame) -> pl.DataFrame:
    """Return the curves with the origin added, a row with each curve's name, and the two ends of the diagonal."""
    key = ["variant", "sublayer", "layer"]
    points = named.filter(pl.col("true_positive_rate").is_not_null())
    starts = (
        points.select(key)
        .unique(maintain_order=True)
        .with_columns(false_positive_rate=pl.lit(0.0), true_positive_rate=pl.lit(0.0))
    )
    best = named.filter(pl.col("auc").is_not_null() & pl.col("is_best")).select(
        *key,
        pl.format("{} {}: {}", "sublayer", "layer", pl.col("auc").map_elements("{:.2f}".format, pl.String)).alias(
            "text"
        ),
        pl.when(pl.col("sublayer") == _TITLES[0]).then(0.03).otherwise(0.13).alias("at"),
    )
    rates = ["false_positive_rate", "true_positive_rate"]
    curves = pl.concat([starts, points.select(*key, *rates)], how="vertical_relaxed").with_columns(
        pl.format("{} {}", "sublayer", "layer").alias("curve"),
        pl.int_range(pl.len()).over("variant", "sublayer").alias("place"),
        pl.lit(value=False).alias("is_end"),
    )
    ends = [
        starts.select("variant")
        .unique(maintain_order=True)
        .with_columns(is_end=pl.lit(value=True), **{rate: pl.lit(end) for rate in rates})
        for end in (0.0, 1.0)
    ]
    return pl.concat([curves, *ends, best], how="diagonal_relaxed")


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draw rows of one model and lens: the area of every sublayer, then the best two curves of each variant."""
    if frame.is_empty():
        return theme.no_data(TITLE, "no variant has three KL spikes and a sublayer measured alone")
    named = theme.with_variant(frame).with_columns(pl.col("sublayer").cast(pl.String).replace(theme.SUBLAYER_TITLES))
    order = theme.names(named, "variant")
    parts = [_areas(named.filter(pl.col("auc").is_not_null()), order)]
    if named["true_positive_rate"].count():
        parts.append(_curves(_with_ends(named), order))
    subtitle = f"{theme.models(frame)} · lens {theme.names(frame, 'lens')[0]}"
    without = "" if frame["auc_low"].count() else "no intervals: fewer than three prompts with spikes"
    names = frame["left_out"].drop_nulls()
    left_out = f"left out, fewer than three spikes where layers were measured: {names[0]}" if len(names) else ""
    return theme.themed(alt.vconcat(*parts, title=theme.title(TITLE, subtitle, without, left_out)))
