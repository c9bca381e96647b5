"""Estimate against truth for the paper's three theorems, and the bias by decile of the truth."""

from functools import partial

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import hierarchy, method_encoding, theme

TITLE = "Second-order estimates against the truth"
CAPTION = (
    "Above: each point is one sublayer at one position. On the diagonal the estimate is exact; above it, the estimate "
    "is too large. A fixed sample shows at most 500 points per panel (the smallest MD5 values of the row's key). "
    "Rows whose estimate or truth is exactly 0 are left out, because logarithmic axes cannot show them. Points below "
    "1e-9 are drawn on the edge. Below: the bias by decile of the truth, over all points instead of the sample. It is "
    "the median of estimate over truth at the middle of the decile, with bars from the 10th to the 90th percentile. A "
    "model with a million rows of stg_layer_transitions or more uses every second position, from 1.5 million on every "
    "third, and so on. "
    "Ratios beyond a factor of 30 are drawn on the edge."
)
NEEDS = "no layer moved, so there is nothing to estimate"

# A softmax of two logits hundreds apart gives shifts of 1e-40, which no generated text shows.
FLOOR = 1e-9
# Ratios beyond this factor are drawn on the edge.
MAX_BIAS = 30

PANELS = {
    "T1 h": ("T1, hidden state", "1 − cos h"),
    "T1 z": ("T1, logits", "1 − cos z"),
    "T2 p": ("T2, probabilities", "1 − cos p"),
    "T3 KL": ("T3, KL(dense ‖ pruned)", "KL, nats"),
}
SCOPES = {"local": "local, one sublayer swapped", "propagated": "propagated, the pruned model run whole"}
_COLOR = theme.nominal(alt.Color, "scope", SCOPES.values(), [theme.BLUE, theme.VERMILLION])
_SHAPE = theme.nominal(alt.Shape, "scope", SCOPES.values(), ["circle", "triangle-up"])


def _exact(x: alt.X, y: alt.Y, ends: list[dict[str, float]]) -> alt.Chart:
    """Return the line on which the estimate is exact."""
    line: alt.Chart = theme.Chart(theme.inline(ends)).mark_line(style="quiet", **theme.DASHED).encode(x=x, y=y)
    return line


def _bias(deciles: pl.DataFrame, x: alt.X, ends: tuple[float, float]) -> theme.AnyChart:
    """Draw estimate over truth by decile of the truth."""
    ratios = alt.Scale(type="log", domain=[1 / MAX_BIAS, MAX_BIAS], nice=False, clamp=True)
    ticks = alt.Axis(values=[0.1, 1, 10], labelExpr=theme.powers_of_ten([0.1, 1, 10]))
    ratio = partial(alt.Y, title="estimate / truth", scale=ratios)
    y = ratio("ratio_median:Q", axis=ticks)
    # Only the points have a shape: a rule with a shape is drawn with a symbol at its end.
    data = deciles.select("scope", "decile", "n", "truth", "ratio_median", "ratio_p10", "ratio_p90")
    base = theme.Chart(theme.rows(data)).encode(x=x, color=_COLOR)
    spread = base.mark_rule(opacity=0.5, strokeWidth=1.5).encode(**theme.span(ratio("ratio_p10:Q"), "ratio_p90:Q"))
    tooltip = theme.tooltip("scope:N decile n truth ratio_median ratio_p10 ratio_p90")
    point = base.mark_point(filled=True, size=36, opacity=1).encode(y=y, shape=_SHAPE, tooltip=tooltip)
    exact = _exact(x, y, [{"truth": end, "ratio_median": 1} for end in ends])
    return alt.layer(exact, spread, point).properties(width=330, height=80)


def _panel(part: pl.DataFrame, panel: str, quantity: str) -> theme.AnyChart:
    """Draw one estimate: the cloud above, the bias below, with the same axis for the truth."""
    points, deciles = part.filter(pl.col("decile").is_null()), part.filter(pl.col("decile").is_not_null())
    low, high = theme.extent(part["truth"], points["estimate"])
    ends = max(low, FLOOR), max(high, 10 * FLOOR)
    scale, axis = theme.decades(*ends)
    scale.clamp = True  # values below the floor are drawn on the edge
    x = alt.X("truth:Q", title=f"true {quantity}", scale=scale, axis=axis)
    charts: list[theme.AnyChart] = []
    if points.height:
        y = alt.Y("estimate:Q", title=f"estimated {quantity}", scale=scale, axis=axis)
        data = points.select("variant", "layer", "sublayer", "prompt_id", "position", "scope", "estimate", "truth")
        tooltip = theme.tooltip("variant:N layer sublayer:N prompt_id:N position estimate truth")
        point = theme.Chart(theme.rows(data)).mark_point(filled=True, size=14, opacity=0.5)
        cloud = point.encode(x=x, y=y, tooltip=tooltip, color=_COLOR, shape=_SHAPE)
        diagonal = _exact(x, y, [{"truth": end, "estimate": end} for end in ends])
        charts.append(alt.layer(diagonal, cloud).properties(width=330, height=210))
    if deciles.height:
        charts.append(_bias(deciles, x, ends))
    stacked: theme.AnyChart = alt.vconcat(*charts, spacing=8).properties(
        title=alt.TitleParams(panel, fontSize=12, frame="group")
    )
    return stacked


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw points of `estimate_points` and deciles of `q05_bias_by_deviation` of one lens, in up to four panels."""
    positive = frame.filter(
        theme.has_logarithm("truth"), theme.has_logarithm("estimate") | theme.has_logarithm("ratio_median")
    )
    if positive.is_empty():
        raise theme.NoData(NEEDS)
    named = method_encoding.labelled(positive.with_columns(pl.col("recipe").cast(pl.String).fill_null("")), "prompt_id")
    points = theme.with_variant(named).with_columns(pl.col("scope").cast(pl.String).replace(SCOPES))
    panels = [
        _panel(part, *panel)
        for theorem, panel in PANELS.items()
        if not (part := points.filter(pl.col("theorem") == theorem)).is_empty()
    ]
    counts = f"{positive['decile'].null_count():,} points above, deciles of {positive['n'].sum():,} below"
    return alt.concat(*panels, columns=2), [hierarchy.about(frame), counts]
