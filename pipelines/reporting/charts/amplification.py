"""Factors by which the LM head and the softmax enlarge a shift, against layer."""

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import hierarchy, layers, theme

TITLE = "How many times larger the LM head and the softmax make a shift, by layer"
CAPTION = (
    "The mean of 1 − cos in z over that in h, which is what the LM head makes of the shift, and the mean in p over "
    "that in z, which is what the softmax makes of it, behind each changed sublayer, in the dense context. Means are "
    "over prompts and positions. On the grey line at 1 the shift stays as it is, below it is compressed; the figure "
    "`hierarchy` shows the shifts themselves."
)

FACTORS = {"z over h: LM head": ("z", "h"), "p over z: softmax": ("p", "z")}


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draw rows of `layer_summary` of one lens: a row of panels per variant, attention beside MLP."""
    if frame.is_empty():
        return theme.no_data(TITLE, "no recipe changed a sublayer")
    factors = frame.with_columns(
        (pl.col(f"one_minus_cos_{above}_mean").cast(pl.Float64) / pl.col(f"one_minus_cos_{below}_mean")).alias(
            f"{above}_{below}_mean"
        )
        for above, below in FACTORS.values()
    )
    titles = {f"{above}_{below}": title for title, (above, below) in FACTORS.items()}
    long = layers.curves(factors, titles, ("mean",))
    shown = long.filter(theme.has_logarithm("mean"))
    if shown.is_empty():
        return theme.no_data(TITLE, "every shift is exactly zero")
    scale, axis = theme.decades(*theme.extent(shown["mean"], pl.Series([1.0])))
    y = alt.Y(title="factor", scale=scale, axis=axis)
    same = theme.Chart().mark_rule(style="quiet", strokeDash=[4, 3], strokeWidth=1).encode(y=alt.datum(1))
    title = theme.title(TITLE, hierarchy.subtitle(frame), _left_out(long.height - shown.height))
    return layers.draw(shown, y, title, [theme.BLUE, theme.VERMILLION], ["square", "triangle-up"], same)


def _left_out(count: int) -> str:
    """Return the subtitle about factors of shifts that are exactly zero; empty where there are none."""
    return f"without {count:,} factors of shifts that are exactly 0" if count else ""
