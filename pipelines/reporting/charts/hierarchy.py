"""Cosine in h, z and p against layer: the paper's Figure 4, for every recipe.

Which rows enter is the query's business.
"""

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import layers, theme

TITLE = "How close each pruned sublayer stays, from hidden state to probability"
CAPTION = (
    "Cosine between dense and pruned in h, z and p behind each changed sublayer, in the dense context; the line is "
    "the mean over prompts and positions, the band runs from the 10th to the 90th percentile. Sublayers that a recipe "
    "left alone are not shown."
)
QUERY = layers.QUERY.format(
    columns="""cos_h_mean, cos_h_p10, cos_h_p90, cos_z_mean, cos_z_p10, cos_z_p90,
       cos_p_mean, cos_p_p10, cos_p_p90"""
)
LENSES = {
    "raw": "lens raw: LM head on the residual stream, as in the paper",
    "normed": "lens normed: after the final norm, so that the last layer gives the model's output",
}


def subtitle(frame: pl.DataFrame) -> str:
    """Model, temperature and lens of the rows."""
    lenses = [LENSES[lens] for lens in theme.names(frame, "lens")]
    return " · ".join([theme.models(frame), theme.temperatures(frame), *lenses])


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draws rows of `layer_summary` of one lens, one panel per variant and sublayer."""
    if frame.is_empty():
        return theme.no_data(TITLE, "no recipe changed a sublayer")
    long = layers.by_space(frame, {"mean": "cos_{}_mean", "p10": "cos_{}_p10", "p90": "cos_{}_p90"})
    y = alt.Y(title="cosine (dense, pruned)", scale=alt.Scale(zero=False, nice=True), axis=alt.Axis())
    return layers.draw(long, y, theme.title(TITLE, subtitle(frame)))
