"""Score against the number of dropped sublayers or blocks, by kind of task, with published curves."""

from functools import partial

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import method_encoding, theme
from prunescope.pipelines.reporting.charts.display_text import label

TITLE = "Score against how much was dropped"
CAPTION = (
    "Mean score over the tasks of a kind, and the share of written answers that equal the dense model's, right or "
    "wrong, after dropping k sublayers or blocks; the dense model is k = 0. Bars are 95 % intervals: Wilson's over "
    "samples, Student's t over queries for retrieval. Without a bar the error is unknown. If several variants drop the "
    "same number by the same rule, the line runs through their mean. Dashed and grey: published curves, means over the "
    "tasks of that kind, of any publication with at least three values of k. They are of another model and other "
    "tasks, so compare the shape instead of the height. The box below the chart hides them."
)
NEEDS = "the study scores no task for variants that drop sublayers or blocks"

KINDS = {
    "non_generative": "tasks answered by choosing",
    "generative": "tasks answered by writing",
    "agreement": "same answer as dense, written",
    "retrieval": "retrieval, nDCG@10",
}
# By `source`.
_DASHES = {"measured": [1, 0], "published": [4, 3]}


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw rows of one model, one panel per kind of task."""
    series = (pl.col("publication").cast(pl.String) + ", published").fill_null("measured").alias("series")
    named = method_encoding.labelled(frame.with_columns(series), "recipe", "method", "chosen_by", "series")
    named, order = method_encoding.panel_titles(named, "kind", KINDS)
    pruned = named.filter(pl.col("method") != "dense")
    if pruned.height:
        # The dense model, which has dropped nothing, is the first point of every curve.
        dense = named.filter(pl.col("method") == "dense").drop("method", "chosen_by")
        starts = pruned.select("kind", "series", "method", "chosen_by").unique(maintain_order=True)
        named = pl.concat([starts.join(dense, on=["kind", "series"]), pruned], how="diagonal_relaxed")
    is_measured = pl.col("series") == "measured"
    curves = named.with_columns(
        pl.concat_str("method", "chosen_by", "series", separator="|").alias("curve"),
        pl.when(is_measured).then(pl.lit("measured")).otherwise(pl.lit("published")).alias("source"),
    )
    dashed = theme.names(curves.filter(~is_measured), "series")
    marks = method_encoding.encodings(curves["method"])
    is_shown = alt.param(name="published", value=True, bind=alt.binding_checkbox(name="published curves "))
    x = theme.whole_axis("dropped", "dropped sublayers or blocks, k", curves["dropped"])
    scale = method_encoding.padded(curves["score"], curves["low"], curves["high"])
    y = partial(alt.Y, title="mean score")
    base = theme.Chart().encode(x=x, detail=alt.Detail("curve:N"))
    measured = base.transform_filter("datum.series == 'measured'").encode(color=marks["color"])
    published = base.transform_filter("datum.series != 'measured'").encode(
        y=y("score:Q", scale=scale),
        color=alt.value(theme.GREY),
        opacity=alt.condition(is_shown, alt.value(1), alt.value(0)),
    )
    sources = list(_DASHES) if dashed else ["measured"]
    legend = alt.Legend(symbolType="stroke", symbolStrokeWidth=2, symbolSize=300) if dashed else None
    dash = theme.nominal(alt.StrokeDash, "source", sources, map(_DASHES.get, sources), legend=legend)
    tooltip = theme.tooltip("series:N recipe:N method:N chosen_by:N dropped score low high")
    interval = theme.valid(measured, "low").mark_rule(strokeWidth=1.2)
    chart = alt.layer(
        published.mark_line(strokeWidth=1.2).encode(strokeDash=dash),
        published.mark_point(filled=True, size=14).encode(shape=marks["shape"], tooltip=tooltip),
        interval.encode(**theme.span(y("low:Q"), "high:Q")),
        measured.mark_line(strokeWidth=2).encode(y=y("mean(score):Q"), strokeDash=dash),
        measured.mark_point(filled=True, size=45, opacity=1).encode(
            y=y("score:Q", scale=scale), shape=marks["shape"], tooltip=tooltip
        ),
        data=theme.rows(curves.drop("model", "kind", "publication")),
    ).add_params(is_shown)
    panels = theme.faceted(chart.properties(width=300, height=220), "panel", order, 3)
    published_by = f"dashed: {label(', '.join(dashed), 90)}" if dashed else ""
    return panels.resolve_axis(x="independent", y="independent"), [theme.about(frame), published_by]
