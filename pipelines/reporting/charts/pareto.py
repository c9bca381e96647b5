"""Score against the share of parameters removed, with the Pareto front."""

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import method_encoding, theme

TITLE = "What is left for what was removed"
CAPTION = (
    "One point per variant that removes parameters. The stepped line joins the variants that no other beats in both "
    "size and score. The dense model is on it, too, unless a smaller variant scores more. The variants on it are "
    "named if there is room (+1: one more variant at the same point). Masked weights count as removed. Quantization "
    "removes nothing and is left out. Points that remove nearly the same share are drawn next to each other. "
    f"{method_encoding.SCORE_CAPTION}"
)
NEEDS = "no variant removes parameters and was measured"

# Labels closer than both shares of the panel's width and height would overlap.
_MIN_DISTANCE = (0.3, 0.07)
# A point's width as a share of the largest share removed.
_POINT = 0.035


def labels(frame: pl.DataFrame) -> pl.DataFrame:
    """Return panel, point and `label` of the best variants, from the smallest on, if there is room."""
    width = float(frame["parameters_removed_share"].max() or 1)  # type: ignore[arg-type]
    point = ["panel", "parameters_removed_share", "score"]
    found = []
    for part in frame.partition_by("panel", maintain_order=True):
        low, high = theme.extent(*(part[name] for name in ("score", "low", "high") if part[name].count()))
        # The variants that remove most get their labels first.
        best = part.filter("is_best").group_by(point, maintain_order=True).agg("variant")
        named = best.sort("parameters_removed_share", descending=True)
        distances = (_MIN_DISTANCE[0] * width, _MIN_DISTANCE[1] * ((high - low) or 1.0))
        count = pl.col("variant").list.len()
        more = pl.when(count > 1).then(pl.format(" +{}", count - 1)).otherwise(pl.lit(""))
        label = (pl.col("variant").list.first() + more).alias("label")
        found.append(named.filter(theme.with_room(named.select(point).iter_rows(), *distances)).select(*point, label))
    return pl.concat(found)


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw rows of one model, one panel per measure."""
    named = method_encoding.labelled(theme.with_variant(frame), "method")
    named, order = method_encoding.panel_titles(named, "measure", method_encoding.SCORE_TITLES)
    most = float(named["parameters_removed_share"].max() or 1)  # type: ignore[arg-type]
    # Points that would cover each other are moved by up to a point's width.
    width = _POINT * most
    place = ["panel", (pl.col("parameters_removed_share") / width).round(), (pl.col("score") / _POINT).round()]
    # From −1 to 1 in the order of the rows, in a group of any size.
    number = (2 * pl.int_range(pl.len()).over(place) - (pl.len().over(place) - 1)) / pl.len().over(place)
    moved = named.with_columns((pl.col("parameters_removed_share") + width * number).alias("shown_share"))
    points = pl.concat([moved, labels(named)], how="diagonal_relaxed")
    marks = method_encoding.encodings(named["method"])
    x = alt.X(
        "parameters_removed_share:Q",
        title="parameters removed",
        scale=alt.Scale(domain=[0, 1.7 * float(named["parameters_removed_share"].max())], nice=False, padding=6),  # type: ignore[arg-type]
        # The scale ends beyond 1, so that names fit next to the last point, but it has no ticks there.
        axis=alt.Axis(labelExpr="datum.value > 1 ? '' : format(datum.value, '~%')", grid=False, tickCount=5),
    )
    # No tick label reaches above the panel, where it would move the heading.
    axis = alt.Axis(format="~%", tickCount=6, labelBound=True)
    y = alt.Y("score:Q", title=None, scale=alt.Scale(zero=False, nice=False, padding=12), axis=axis)
    base = theme.Chart().encode(x=x)
    variants = theme.valid(base, "variant")
    shown = variants.encode(x=alt.X("shown_share:Q", title="parameters removed"))
    best = variants.transform_filter("datum.is_best")
    # Points without an interval get a bar of length 0, because Vega warns about a panel in which a mark has no row.
    bars = shown.transform_calculate(
        bar_low="isValid(datum.low) ? datum.low : datum.score",
        bar_high="isValid(datum.high) ? datum.high : datum.score",
    )
    text = theme.valid(base, "label").mark_text(**theme.NAMES)
    chart = alt.layer(
        best.mark_line(interpolate="step-before", strokeWidth=1.2, color=theme.GREY).encode(
            y=y, order=alt.Order("parameters_removed_share:Q")
        ),
        bars.mark_rule(strokeWidth=1, opacity=0.6).encode(
            **theme.span(alt.Y("bar_low:Q", title=None), "bar_high:Q"), color=marks["color"]
        ),
        shown.mark_point(filled=True, size=50, opacity=0.9).encode(
            y=y, **marks, tooltip=theme.tooltip("variant:N method:N parameters_removed_share score low high n_tasks")
        ),
        text.encode(y=y, text=alt.Text("label:N")),
        data=theme.rows(points.drop("model", "recipe", "measure")),
    ).properties(width=300, height=230)
    panels = theme.faceted(
        chart,
        "panel",
        order,
        columns=3,
        # A heading has one line before its comma and one after it, so that it fits a column of a paper.
        header={"labelExpr": "split(datum.label, ', ')"},
        bounds="flush",  # so that axes of different widths do not move the panels
        spacing=alt.RowColnumber(row=84, column=44),
    )
    return panels.resolve_scale(y="independent").resolve_axis(x="independent", y="independent"), [theme.about(frame)]
