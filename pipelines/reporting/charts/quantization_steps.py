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

_TRAJECTORIES = {"teacher_forced": "on the dense text", "own_text": "on the variant's text"}
_QUANTITIES = {name: title for name, title in generation.QUANTITIES.items() if name != "kl"}
_COLORS = {"quantization": theme.GREEN, "drop": theme.BLUE, "mask": theme.VERMILLION}
_DASHES = {"quantization": [1, 0], "drop": [4, 2], "mask": [1, 2]}


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draw rows of `quantization_steps` of one model: a column per space, a row per text that is read."""
    if frame.is_empty():
        return theme.no_data(TITLE, "a quantized variant (awq, gptq, rtn) and a drop or mask beside it")
    curves = theme.with_variant(frame).with_columns(pl.col("trajectory").cast(pl.String).replace(_TRAJECTORIES))
    kinds = dict(curves.select("variant", "kind").unique(maintain_order=True).iter_rows())
    keep = ["variant", "trajectory", "step", "prompts"]
    points = theme.stacked(curves, keep, "quantity", _QUANTITIES, ("median", "p10", "p90"))
    scale, axis = generation.distance_axis()
    legend = alt.Legend(symbolOpacity=1, symbolType="stroke", symbolStrokeWidth=2.5, symbolSize=200)
    base = theme.Chart().encode(
        x=theme.whole_axis("step", "step", curves["step"]),
        color=theme.nominal(alt.Color, "variant", kinds, (_COLORS[kind] for kind in kinds.values()), legend=legend),
    )
    band = base.mark_area(opacity=0.15).encode(y=alt.Y("p10:Q", scale=scale, axis=axis, title=None), y2=alt.Y2("p90:Q"))
    line = base.mark_line(strokeWidth=1.6, point=alt.OverlayMarkDef(size=7)).encode(
        y=alt.Y("median:Q", scale=scale, axis=axis, title=None),
        strokeDash=theme.nominal(alt.StrokeDash, "variant", kinds, (_DASHES[kind] for kind in kinds.values())),
        tooltip=theme.tooltip("variant:N", "trajectory:N", "quantity:N", "step:Q", "median:Q", "p10:Q", "p90:Q"),
    )
    prompts = int(frame["prompts"].max())  # type: ignore[arg-type]
    subtitle = " · ".join([theme.models(frame), theme.prompts(prompts), theme.temperatures(frame)])
    return theme.themed(
        alt.layer(band, line, data=theme.rows(points))
        .properties(width=200, height=120)
        .facet(
            row=alt.Row("trajectory:N", title=None, sort=theme.names(curves, "trajectory")),
            column=alt.Column(
                "quantity:N",
                title=None,
                sort=list(_QUANTITIES.values()),
                header=alt.Header(labelExpr="split(datum.value, '\\n')", labelPadding=4),
            ),
            title=theme.title(TITLE, subtitle),
        )
    )
