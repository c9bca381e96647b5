"""1 − cos in h, z and p against layer on a logarithmic axis: where the softmax amplifies, and where not."""

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import hierarchy, layers, theme

TITLE = "Amplification from h over z to p, layer by layer"
CAPTION = (
    "1 − cos between dense and pruned behind each changed sublayer, in the dense context; the line is the mean over "
    "prompts and positions, the band runs from the 10th to the 90th percentile and is cut at the edge of the panel. "
    "Where p lies above z, the softmax amplified the shift; where z lies below h, the LM head compressed it."
)


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draw rows of `layer_summary` of one lens, one panel per variant and sublayer."""
    if frame.is_empty():
        return theme.no_data(TITLE, "no recipe changed a sublayer")
    long = layers.by_space(frame, "one_minus_cos")
    shown = long.filter(theme.has_logarithm("mean"))
    left_out = theme.without_zeros(long.height - shown.height)
    if shown.is_empty():
        return theme.no_data(TITLE, "every shift is exactly zero")
    # Behind a rarely used expert, where less than a tenth of the tokens move, the 90th percentile is 0.
    positive = shown["p90"].filter(shown["p90"] > 0)
    scale, axis = theme.decades(*theme.extent(shown["mean"], *([positive] if len(positive) else [])))
    scale.clamp = True  # a percentile may be 0, or far below all means
    y = alt.Y(title="1 − cos (dense, pruned)", scale=scale, axis=axis)
    return layers.draw(shown, y, theme.title(TITLE, hierarchy.subtitle(frame), left_out))
