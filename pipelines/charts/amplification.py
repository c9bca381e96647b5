"""1 − cos in h, z and p against layer on a logarithmic axis: where the softmax amplifies, and where not.

Which rows enter is the query's business.
"""

import altair as alt
import polars as pl

from pipelines.charts import hierarchy, layers, theme

TITLE = "Amplification from h over z to p, layer by layer"
CAPTION = (
    "Mean of 1 − cos between dense and pruned behind each changed sublayer, in the dense context. Where p lies above "
    "z, the softmax amplified the shift; where z lies below h, the LM head compressed it."
)
QUERY = layers.QUERY.format(columns="one_minus_cos_h_mean, one_minus_cos_z_mean, one_minus_cos_p_mean")


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draws rows of `layer_summary` of one lens, one panel per variant and sublayer."""
    if frame.is_empty():
        return theme.no_data(TITLE, "no recipe changed a sublayer")
    long = layers.by_space(frame, {"one_minus_cos": "one_minus_cos_{}_mean"})
    shown = long.filter(theme.has_logarithm("one_minus_cos"))
    left_out = theme.without_zeros(long.height - shown.height)
    if shown.is_empty():
        return theme.no_data(TITLE, "every shift is exactly zero")
    scale, axis = theme.decades(*theme.extent(shown["one_minus_cos"]))
    base = alt.Chart().encode(
        x=theme.whole_axis("layer", "layer", shown["layer"]),
        y=alt.Y(
            "one_minus_cos:Q",
            title="1 − cos (dense, pruned)",
            scale=scale,
            axis=axis,
        ),
        color=layers.space_color(),
        detail="run:N",
    )
    point = base.mark_point(size=16, filled=True, opacity=1).encode(
        shape=layers.space_shape(), tooltip=["panel:N", "layer:Q", "space:N", "one_minus_cos:Q", "positions:Q"]
    )
    facet, columns = layers.panels(shown)
    return theme.themed(
        alt.layer(base.mark_line(strokeWidth=1.8).encode(strokeDash=layers.space_dash()), point, data=theme.rows(shown))
        .properties(width=255, height=130)
        .facet(facet=facet, columns=columns, title=theme.title(TITLE, hierarchy.subtitle(frame), left_out))
        .resolve_axis(x="independent")
    )
