"""Factors by which the LM head and the softmax enlarge a shift, by layer."""

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import hierarchy, layers, theme

TITLE = "How many times larger the LM head and the softmax make a shift, by layer"
CAPTION = (
    "Two ratios after each changed sublayer, in the dense context: 1 − cos in z over that in h is the effect of the LM "
    "head on the shift, and 1 − cos in p over that in z is the effect of the softmax. Points are medians of the ratio "
    "over prompts and positions. On the grey line at 1 the shift keeps its size; below it the shift is compressed. The "
    "figure `hierarchy` shows the shifts themselves."
)
NEEDS = "no recipe changed a sublayer"

FACTORS = {"h_to_z": "z over h: LM head", "z_to_p": "p over z: softmax"}


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw factors of one lens: a row of panels per variant, attention left of MLP."""
    long = layers.curves(frame, FACTORS, ("median",))
    shown = long.filter(theme.has_logarithm("median"))
    if shown.is_empty():
        raise theme.NoData("every shift is exactly zero")
    scale, axis = theme.decades(*theme.extent(shown["median"], pl.Series([1.0])))
    y = alt.Y(title="factor", scale=scale, axis=axis)
    same = theme.Chart().mark_rule(style="quiet", **theme.DASHED).encode(y=alt.datum(1))
    chart = layers.draw(shown, y, [theme.BLUE, theme.VERMILLION], ["square", "triangle-up"], same)
    left_out = long.height - shown.height
    without = f"without {left_out:,} factors of shifts that are exactly 0" if left_out else ""
    return chart, [hierarchy.about(frame), without]
