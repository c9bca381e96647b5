"""Removed share against KL of searched and published recipes, and the results of a search with its controls."""

import math
from functools import partial
from typing import Any

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import method_encoding, theme

TITLE = "Searched recipes against published ones at equal budget"
CAPTION = (
    "Left: mean KL(dense ‖ pruned) per token on the study's own data, against the share of the layers' weights that a "
    "variant removes. Lines join the variants of one method. Method mixed is an allocation of a search or of a study; "
    "if a control chose it, the name of the control follows. Right: the measured objective of the result of each "
    "strategy, on the search's own items. Strategy searched chooses by KL at the output, hidden by 1 − cos h, random "
    "at random, and greedy step by step. Bars are 95 % intervals, over windows or prompts on the left and over items "
    "on the right; without a bar the interval is not known. Differences of two points are paired and more certain than "
    "the bars; they are in q34 and q35."
)
NEEDS = "no search has a result and no mixed recipe was measured"

_COLORS = {"searched": theme.BLUE, "hidden": theme.VERMILLION, "random": theme.GREY, "greedy": theme.ORANGE}
_SHAPES = {"searched": "circle", "hidden": "triangle-up", "random": "cross", "greedy": "square"}
_HEADINGS = {"texts": "on the study's texts", "prompts": "on prompts, teacher forced"}
# Minimum distances of named points of one series, in shares of the panel; closer names would overlap.
_MIN_DISTANCE = (0.25, 0.05)
_HAS_BAR = (theme.has_logarithm("low"), theme.has_logarithm("high"))


def _widest(frame: pl.DataFrame) -> float:
    """Return the end of the axis of shares, which leaves room for the names next to the last points."""
    return 1.25 * float(frame["removed_share"].max() or 1)  # type: ignore[arg-type]


def _named(frame: pl.DataFrame) -> pl.DataFrame:
    """Add `name` to the points that have room for one: mixed variants first, then those of lower KL."""
    width = _widest(frame)
    low, high = _extent(frame)
    height = math.ceil(math.log10(high)) - math.floor(math.log10(low)) or 1
    order = frame.with_row_index("row").sort(pl.col("method") != "mixed", "nats", "row")
    points = order.select(pl.lit(""), pl.col("removed_share") / width, pl.col("nats").log10() / height)
    has_room = pl.Series(theme.with_room(points.iter_rows(), *_MIN_DISTANCE))
    names = order.select("row", pl.when(has_room).then("variant").alias("name")).sort("row")
    return frame.with_columns(names["name"])


def _extent(frame: pl.DataFrame) -> tuple[float, float]:
    """Return the smallest and the largest value of points and bars."""
    bars = frame.filter(_HAS_BAR)
    return theme.extent(frame["nats"], bars["low"], bars["high"])


def _panel(frame: pl.DataFrame, x_title: str, heading: str, marks: dict[str, Any], series: list[str]) -> theme.AnyChart:
    """Draw lines with points, names and bars; the axis of KL ends at powers of ten around points and bars."""
    scale, axis = theme.decades(*_extent(frame))
    y = partial(alt.Y, title="mean KL(dense ‖ pruned), nats", scale=scale, axis=axis)
    shares = alt.Axis(labelExpr="datum.value > 1 ? '' : format(datum.value, '~%')", grid=False, tickCount=6)
    room = alt.Scale(domain=[0, _widest(frame)], nice=False, padding=6)
    x = alt.X("removed_share:Q", title=x_title, scale=room, axis=shares)
    base = theme.Chart().encode(x=x, color=marks["color"])
    layers = [
        base.mark_line(opacity=0.7).encode(
            y=y("nats:Q"),
            detail=[alt.Detail(f"{column}:N") for column in series],
            strokeWidth=alt.condition("datum.method == 'mixed'", alt.value(2.6), alt.value(1.3)),
        )
    ]
    if not frame.filter(_HAS_BAR).is_empty():  # Vega warns about a layer without rows
        bars = base.transform_filter("isValid(datum.low) && datum.low > 0 && isValid(datum.high)")
        layers.append(bars.mark_rule(strokeWidth=1.2, opacity=0.7).encode(**theme.span(y("low:Q"), "high:Q")))
    tooltip = theme.tooltip("variant:N method:N strategy:N search_id:N removed_share nats low high n")
    point = base.mark_point(filled=True, size=55, opacity=0.95)
    layers.append(point.encode(y=y("nats:Q"), shape=marks["shape"], tooltip=tooltip))
    if "name" in frame.columns:
        text = theme.valid(base, "name").mark_text(**theme.NAMES | {"dy": -5})
        layers.append(text.encode(y=y("nats:Q"), text=alt.Text("name:N")))
    title = alt.TitleParams(heading, fontSize=12, anchor="start")
    return alt.layer(*layers, data=theme.rows(frame)).properties(width=330, height=260, title=title)


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw rows of one model: variants on other data, and results of its searches, if there are any."""
    shown = frame.filter(theme.has_logarithm("nats"))
    if shown.is_empty():
        raise theme.NoData(NEEDS)
    named = method_encoding.labelled(theme.with_variant(shown), "method", "search_id").drop("model", "recipe")
    panels = []
    judged = named.filter(panel="judged").drop("panel", "search_id", "strategy")
    if judged.height:
        heading = f"KL(dense ‖ pruned) {_HEADINGS[str(judged['measured_on'][0])]}"
        marks = method_encoding.encodings(judged["method"], columns=3)
        panels.append(_panel(_named(judged), "layers' weights removed", heading, marks, ["method"]))
    trials = named.filter(panel="trials").drop("panel", "method")
    if trials.height:
        present = [strategy for strategy in _COLORS if strategy in set(trials["strategy"])]
        marks = {
            "color": theme.nominal(alt.Color, "strategy", present, map(_COLORS.get, present), legend=theme.POINTS),
            "shape": theme.nominal(alt.Shape, "strategy", present, map(_SHAPES.get, present), legend=theme.POINTS),
        }
        heading = "objective on the search's items"
        panels.append(_panel(trials, "budget removed", heading, marks, ["strategy", "search_id"]))
    chart = alt.hconcat(*panels, spacing=40).resolve_scale(color="independent", shape="independent")
    return chart, [theme.about(frame)]
