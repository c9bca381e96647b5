"""Cosine in h, z and p against layer: the paper's Figure 4, for every recipe."""

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import layers, theme

TITLE = "How close each pruned sublayer stays, from hidden state to probability"
CAPTION = (
    "Cosine between dense and pruned in h, z and p behind each changed sublayer, in the dense context; the line is "
    "the mean over prompts and positions, the band runs from the 10th to the 90th percentile. Sublayers that a recipe "
    "left unchanged are not shown."
)

LENSES = {
    "raw": "lens raw: LM head on the residual stream, as in the paper",
    "normed": "lens normed: after the final norm, so that the last layer gives the model's output",
}


def subtitle(frame: pl.DataFrame) -> str:
    """Return model, temperature and lens of the rows."""
    lenses = [LENSES[lens] for lens in theme.names(frame, "lens")]
    return " · ".join([theme.models(frame), theme.temperatures(frame), *lenses])


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draw rows of `layer_summary` of one lens, one panel per variant and sublayer."""
    if frame.is_empty():
        return theme.no_data(TITLE, "no recipe changed a sublayer")
    y = alt.Y(title="cosine (dense, pruned)", scale=alt.Scale(zero=False, nice=True), axis=alt.Axis())
    return layers.draw(layers.by_space(frame, "cos"), y, theme.title(TITLE, subtitle(frame)))
