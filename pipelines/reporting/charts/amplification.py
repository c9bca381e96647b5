"""1 − cos in h, z and p against layer on a logarithmic axis: where the softmax amplifies, and where not.

Which rows enter is the query's business.
"""

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import hierarchy, layers, theme

TITLE = "Amplification from h over z to p, layer by layer"
CAPTION = (
    "1 − cos between dense and pruned behind each changed sublayer, in the dense context; the line is the mean over "
    "prompts and positions, the band runs from the 10th to the 90th percentile, where it leaves the panel beyond its "
    "edge. Where p lies above z, the softmax amplified the shift; where z lies below h, the LM head compressed it."
)
QUERY = layers.QUERY.format(
    columns="""one_minus_cos_h_mean, one_minus_cos_h_p10, one_minus_cos_h_p90,
       one_minus_cos_z_mean, one_minus_cos_z_p10, one_minus_cos_z_p90,
       one_minus_cos_p_mean, one_minus_cos_p_p10, one_minus_cos_p_p90"""
)


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draws rows of `layer_summary` of one lens, one panel per variant and sublayer."""
    if frame.is_empty():
        return theme.no_data(TITLE, "no recipe changed a sublayer")
    long = layers.by_space(frame, {part: f"one_minus_cos_{{}}_{part}" for part in ("mean", "p10", "p90")})
    shown = long.filter(theme.has_logarithm("mean"))
    left_out = theme.without_zeros(long.height - shown.height)
    if shown.is_empty():
        return theme.no_data(TITLE, "every shift is exactly zero")
    scale, axis = theme.decades(*theme.extent(shown["mean"], *_positive(shown["p90"])))
    scale.clamp = True  # a percentile may be 0, or far below all means
    y = alt.Y(title="1 − cos (dense, pruned)", scale=scale, axis=axis)
    return layers.draw(shown, y, theme.title(TITLE, hierarchy.subtitle(frame), left_out))


def _positive(values: pl.Series) -> list[pl.Series]:
    """Those above 0, if any: where a token in ten is moved at most, as behind one expert, the 90th percentile is 0."""
    found = values.filter(values > 0)
    return [found] if len(found) else []
