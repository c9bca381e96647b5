"""Cosine in h, z and p by layer: the paper's Figure 4, for every recipe."""

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import layers, theme

TITLE = "Cosine between dense and pruned in h, z and p, by layer"
CAPTION = (
    "Cosine between dense and pruned in h, z and p after each changed sublayer, in the dense context. The line is the "
    "mean over prompts and positions; the band runs from the 10th to the 90th percentile. Attention is left, MLP "
    "right. No curve crosses sublayers that a recipe left unchanged."
)
NEEDS = "no recipe changed a sublayer"

LENSES = {
    "raw": "lens raw: LM head on the residual stream, as in the paper",
    "normed": "lens normed: after the final norm, so that the last layer gives the model's output",
}


def about(frame: pl.DataFrame) -> str:
    """Return model, temperature and lens of the rows."""
    return theme.about(frame, "model temperature", *(LENSES[lens] for lens in theme.names(frame, "lens")))


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw rows of `layer_summary` of one lens: a row of panels per variant, attention left of MLP."""
    titles = {f"cos_{space}": title for space, title in theme.SPACE_TITLES.items()}
    long = layers.curves(frame, titles, ("mean", "p10", "p90"))
    y = alt.Y(title="cosine", scale=alt.Scale(zero=False, nice=True), axis=alt.Axis(tickCount=5))
    return layers.draw(long, y, theme.SPACE_COLORS, theme.SPACE_SHAPES), [about(frame)]
