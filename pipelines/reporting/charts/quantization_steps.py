"""h, z and p along the generation of a quantized variant, a drop and a mask, if both models read the same tokens."""

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import generation, theme

TITLE = "Quantization beside pruning along the generation"
CAPTION = (
    "1 − cos between dense and changed model in h, z and p at each generated token. The axes are linear below 0.001 "
    "and logarithmic above. The chart compares one quantized variant with one that drops attention sublayers and one "
    "with masked weights. They are the study's nearest to AWQ in 4 bits, 8 dropped sublayers and Wanda at 4:8, which "
    "the paper compares. Both models read the same tokens: the dense model's text in the upper row, the variant's own "
    "text in the lower row, if that was measured. Lines are medians over prompts; bands run from the 10th to the 90th "
    "percentile. Neighbouring steps of a model with more than 64 generated tokens share a point."
)
NEEDS = "the study has no quantized variant (awq, gptq, rtn), or neither a drop nor a mask"

_TRAJECTORIES = {"teacher_forced": "on the dense text", "own_text": "on the variant's text"}
_QUANTITIES = {name: title for name, title in generation.QUANTITIES.items() if name != "kl"}
_COLORS = {"quantization": theme.GREEN, "drop": theme.BLUE, "mask": theme.VERMILLION}
_DASHES = {"quantization": [1, 0], "drop": [4, 2], "mask": [1, 2]}


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw rows of `quantization_steps` of one model: a column per space, a row per text that is read."""
    curves = theme.with_variant(frame).with_columns(pl.col("trajectory").cast(pl.String).replace(_TRAJECTORIES))
    kinds = dict(curves.select("variant", "kind").unique(maintain_order=True).iter_rows())
    points = generation.medians(curves, ["variant", "trajectory", "step", "prompts"], _QUANTITIES)
    color = theme.nominal(alt.Color, "variant", kinds, map(_COLORS.get, kinds.values()), legend=theme.LINES)
    dash = theme.nominal(alt.StrokeDash, "variant", kinds, map(_DASHES.get, kinds.values()))
    base = theme.Chart().encode(x=theme.whole_axis("step", "step", curves["step"]), color=color)
    band = base.mark_area(opacity=0.15).encode(**theme.span(alt.Y("p10:Q", **generation.DISTANCE), "p90:Q"))
    line = base.mark_line(strokeWidth=1.6, point=alt.OverlayMarkDef(size=7)).encode(
        y=alt.Y("median:Q", **generation.DISTANCE),
        strokeDash=dash,
        tooltip=theme.tooltip("variant:N trajectory:N quantity:N step median p10 p90"),
    )
    chart = alt.layer(band, line, data=theme.rows(points)).properties(width=200, height=120)
    panels = chart.facet(
        row=alt.Row("trajectory:N", title=None, sort=theme.names(curves, "trajectory")),
        column=generation.quantity_column(4, _QUANTITIES.values()),
    )
    return panels, [theme.about(frame, "model prompts temperature")]
