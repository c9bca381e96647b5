"""Score against the number of dropped sublayers or blocks, by kind of task, with published curves."""

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

KINDS = {
    "non_generative": "tasks answered by choosing",
    "generative": "tasks answered by writing",
    "agreement": "same answer as dense, written",
    "retrieval": "retrieval, nDCG@10",
}
# By `source`.
_DASHES = {"measured": [1, 0], "published": [4, 3]}


def _from_dense(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with the dense model, which has dropped nothing, as the first point of every curve."""
    pruned = frame.filter(pl.col("method") != "dense")
    if pruned.is_empty():
        return frame
    dense = frame.filter(pl.col("method") == "dense").drop("method", "chosen_by")
    curves = pruned.select("kind", "series", "method", "chosen_by").unique(maintain_order=True)
    return pl.concat([curves.join(dense, on=["kind", "series"]), pruned], how="diagonal_relaxed")


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draw rows of one model, one panel per kind of task."""
    if frame.is_empty():
        return theme.no_data(TITLE, "the study scores no task for variants that drop sublayers or blocks")
    named = method_encoding.labelled(frame, "recipe", "method", "chosen_by").with_columns(
        (pl.col("publication").cast(pl.String) + ", published").fill_null("measured").alias("series")
    )
    named = method_encoding.labelled(named, "series")
    named, order = method_encoding.panel_titles(named, "kind", KINDS)
    curves = _from_dense(named).with_columns(
        pl.concat_str("method", "chosen_by", "series", separator="|").alias("curve"),
        pl.when(series="measured").then(pl.lit("measured")).otherwise(pl.lit("published")).alias("source"),
    )
    marks = method_encoding.encodings(curves["method"])
    is_shown = alt.param(name="published", value=True, bind=alt.binding_checkbox(name="published curves "))
    x = theme.whole_axis("dropped", "dropped sublayers or blocks, k", curves["dropped"])
    y = alt.Y(
        "score:Q", title="mean score", scale=method_encoding.padded(curves["score"], curves["low"], curves["high"])
    )
    base = theme.Chart().encode(x=x, detail=alt.Detail("curve:N"))
    measured = base.transform_filter("datum.series == 'measured'").encode(color=marks["color"])
    published = base.transform_filter("datum.series != 'measured'").encode(color=alt.value(theme.GREY))
    sources = list(_DASHES) if (curves["series"] != "measured").any() else ["measured"]
    dash = theme.nominal(
        *(alt.StrokeDash, "source", sources, map(_DASHES.get, sources)),
        legend=alt.Legend(symbolType="stroke", symbolStrokeWidth=2, symbolSize=300) if len(sources) > 1 else None,
    )
    opacity = alt.condition(is_shown, alt.value(1), alt.value(0))
    tooltip = theme.tooltip(
        "series:N", "recipe:N", "method:N", "chosen_by:N", "dropped:Q", "score:Q", "low:Q", "high:Q"
    )
    chart = alt.layer(
        published.mark_line(strokeWidth=1.2).encode(y=y, opacity=opacity, strokeDash=dash),
        published.mark_point(filled=True, size=14).encode(y=y, opacity=opacity, shape=marks["shape"], tooltip=tooltip),
        measured.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.2)
        .encode(y=alt.Y("low:Q", title="mean score"), y2=alt.Y2("high:Q")),
        measured.mark_line(strokeWidth=2).encode(y=alt.Y("mean(score):Q", title="mean score"), strokeDash=dash),
        measured.mark_point(filled=True, size=45, opacity=1).encode(y=y, shape=marks["shape"], tooltip=tooltip),
        data=theme.rows(curves.drop("model", "kind", "publication")),
    ).add_params(is_shown)
    dashed = [name for name in theme.names(curves, "series") if name != "measured"]
    return theme.themed(
        chart.properties(width=300, height=220)
        .facet(
            facet=alt.Facet("panel:N", title=None, sort=order),
            columns=3,
            title=theme.title(TITLE, theme.models(frame), f"dashed: {label(', '.join(dashed), 90)}" if dashed else ""),
        )
        .resolve_axis(x="independent", y="independent")
    )
