"""Removed share against KL of searched and published recipes, and the results of a search with its controls."""

import math
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

_COLORS = {"searched": theme.BLUE, "hidden": theme.VERMILLION, "random": theme.GREY, "greedy": theme.ORANGE}
_SHAPES = {"searched": "circle", "hidden": "triangle-up", "random": "cross", "greedy": "square"}
_SIZE = {"width": 330, "height": 260}
_HEADINGS = {"texts": "on the study's texts", "prompts": "on prompts, teacher forced"}
# Minimum distances of named points of one series, in shares of the panel; closer names would overlap.
_MIN_DISTANCE = (0.25, 0.05)


def _named(frame: pl.DataFrame) -> pl.DataFrame:
    """Add `name` to the points that have room for one: mixed variants first, then those of lower KL."""
    width = 1.25 * float(frame["removed_share"].max() or 1)  # type: ignore[arg-type]
    low, high = _extent(frame)
    height = math.ceil(math.log10(high)) - math.floor(math.log10(low)) or 1
    taken: list[tuple[float, float]] = []
    names: list[str | None] = [None] * frame.height
    order = frame.with_row_index("row").sort(pl.col("method") != "mixed", "nats", "row")
    for row, share, nats, variant in order.select("row", "removed_share", "nats", "variant").iter_rows():
        x, y = share / width, math.log10(nats) / height
        if all(abs(x - a) > _MIN_DISTANCE[0] or abs(y - b) > _MIN_DISTANCE[1] for a, b in taken):
            taken.append((x, y))
            names[row] = variant
    return frame.with_columns(pl.Series("name", names, pl.String))


def _extent(frame: pl.DataFrame) -> tuple[float, float]:
    """Return the smallest and the largest value of points and bars."""
    bars = frame.filter(theme.has_logarithm("low"), theme.has_logarithm("high"))
    return theme.extent(frame["nats"], bars["low"], bars["high"])


def _panel(frame: pl.DataFrame, x_title: str, heading: str, marks: dict[str, Any], series: list[str]) -> theme.AnyChart:
    """Draw lines with points, names and bars; the axis of KL ends at powers of ten around points and bars."""
    scale, axis = theme.decades(*_extent(frame))

    def nats(column: str) -> alt.Y:
        return alt.Y(f"{column}:Q", title="mean KL(dense ‖ pruned), nats", scale=scale, axis=axis)

    base = theme.Chart().encode(
        x=alt.X(
            "removed_share:Q",
            title=x_title,
            # Room for the names next to the last points.
            scale=alt.Scale(domain=[0, 1.25 * float(frame["removed_share"].max() or 1)], nice=False, padding=6),  # type: ignore[arg-type]
            axis=alt.Axis(labelExpr="datum.value > 1 ? '' : format(datum.value, '~%')", grid=False, tickCount=6),
        ),
        color=marks["color"],
    )
    detail = [alt.Detail(f"{column}:N") for column in series]
    tooltip = theme.tooltip(
        "variant:N", "method:N", "strategy:N", "search_id:N", "removed_share:Q", "nats:Q", "low:Q", "high:Q", "n:Q"
    )
    layers = [
        base.mark_line(opacity=0.7).encode(
            y=nats("nats"),
            detail=detail,
            strokeWidth=alt.condition("datum.method == 'mixed'", alt.value(2.6), alt.value(1.3)),
        ),
        base.transform_filter("isValid(datum.low) && datum.low > 0 && isValid(datum.high)")
        .mark_rule(strokeWidth=1.2, opacity=0.7)
        .encode(y=nats("low"), y2=alt.Y2("high:Q")),
        base.mark_point(filled=True, size=55, opacity=0.95).encode(
            y=nats("nats"), shape=marks["shape"], tooltip=tooltip
        ),
    ]
    if "name" in frame.columns:
        layers.append(
            base.transform_filter("isValid(datum.name)")
            .mark_text(align="left", dx=7, dy=-5, fontSize=10, limit=130)
            .encode(y=nats("nats"), text=alt.Text("name:N"))
        )
    if frame.filter(theme.has_logarithm("low"), theme.has_logarithm("high")).is_empty():
        # Vega warns about a layer without rows.
        del layers[1]
    return alt.layer(*layers, data=theme.rows(frame)).properties(
        **_SIZE, title=alt.TitleParams(heading, fontSize=12, anchor="start")
    )


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draw rows of one model: variants on other data, and results of its searches, if there are any."""
    shown = frame.filter(theme.has_logarithm("nats"))
    if shown.is_empty():
        return theme.no_data(TITLE, "no search has a result and no mixed recipe was measured")
    named = method_encoding.labelled(theme.with_variant(shown), "method", "search_id").drop("model", "recipe")
    panels = []
    judged = named.filter(panel="judged").drop("panel", "search_id", "strategy")
    if judged.height:
        where = _HEADINGS[str(judged["measured_on"][0])]
        heading = f"KL(dense ‖ pruned) {where}"
        marks = method_encoding.encodings(judged["method"], columns=3)
        panels.append(_panel(_named(judged), "layers' weights removed", heading, marks, ["method"]))
    trials = named.filter(panel="trials").drop("panel", "method")
    if trials.height:
        strategies = [strategy for strategy in _COLORS if strategy in set(trials["strategy"])]
        legend = alt.Legend(symbolOpacity=1, symbolSize=70)
        marks = {
            "color": theme.nominal(alt.Color, "strategy", strategies, map(_COLORS.get, strategies), legend=legend),
            "shape": theme.nominal(alt.Shape, "strategy", strategies, map(_SHAPES.get, strategies), legend=legend),
        }
        panels.append(
            _panel(trials, "budget removed", "objective on the search's items", marks, ["strategy", "search_id"])
        )
    return theme.themed(
        alt.hconcat(*panels, spacing=40, title=theme.title(TITLE, theme.models(frame))).resolve_scale(
            color="independent", shape="independent"
        )
    )
