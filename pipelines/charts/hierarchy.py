"""Cosine in h, z and p against layer: the paper's Figure 4, for every recipe.

Which rows enter is the query's business.
"""

import altair as alt
import polars as pl

from pipelines.charts import layers, theme

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
    y = alt.Scale(zero=False, nice=True)
    base = alt.Chart().encode(
        x=theme.whole_axis("layer", "layer", long["layer"]), color=layers.space_color(), detail="run:N"
    )
    band = base.mark_area(opacity=0.16).encode(
        y=alt.Y("p10:Q", scale=y, title="cosine (dense, pruned)"), y2=alt.Y2("p90:Q")
    )
    # A dropped sublayer stands alone, and an area or line of one layer has no extent: a bar shows its spread.
    spread = (
        base.transform_filter("datum.is_alone")
        .mark_rule(opacity=0.4, strokeWidth=2)
        .encode(y=alt.Y("p10:Q", scale=y), y2=alt.Y2("p90:Q"))
    )
    line = base.mark_line(strokeWidth=1.8).encode(y=alt.Y("mean:Q", scale=y), strokeDash=layers.space_dash())
    point = base.mark_point(size=16, filled=True, opacity=1).encode(
        y=alt.Y("mean:Q", scale=y),
        shape=layers.space_shape(),
        tooltip=["panel:N", "layer:Q", "space:N", "mean:Q", "p10:Q", "p90:Q", "positions:Q"],
    )
    facet, columns = layers.panels(long)
    return theme.themed(
        alt.layer(band, spread, line, point, data=theme.rows(long))
        .properties(width=255, height=130)
        .facet(facet=facet, columns=columns, title=theme.title(TITLE, subtitle(frame)))
        .resolve_axis(x="independent")  # a shared axis would hang below the gaps of an unfinished row
    )
