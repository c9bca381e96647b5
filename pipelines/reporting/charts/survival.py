"""The share of sampled texts that have not parted from the dense one, by step: as measured and as expected."""

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme

TITLE = "Sampled texts that are still the dense model's own"
CAPTION = (
    "Share of sampled texts that equal the dense model's text of the same random numbers up to and including each "
    "step, as measured, and as expected from the two distributions of every step (the chance that the same random "
    "number draws another token, which is at least their total variation). Bands are 95 % intervals over prompts "
    "(Student's t; Wilson where all texts or none are equal), without which there is no band. The expected curve "
    "rests on the same texts, so that it differs from the measured one by chance alone; it ends where no text is equal "
    "any more. Of a model with more than 64 steps at most 64, and the last, are drawn."
)

CURVES = {"equal_share": "measured", "equal_share_expected": "expected from the distributions"}
_PARTS = ("", "_low", "_high")


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draw one row per model × recipe × step, a panel per variant."""
    if frame.is_empty():
        return theme.no_data(TITLE, "the study samples no text (key `decoding`)")
    named = theme.with_variant(frame)
    data = pl.concat(
        named.select(
            "variant",
            "step",
            pl.lit(title).alias("curve"),
            *(pl.col(f"{name}{part}").alias(f"share{part}") for part in _PARTS),
        )
        for name, title in CURVES.items()
    ).drop_nulls("share")
    # The bands are pale; the legend is not.
    legend = alt.Legend(symbolOpacity=1, symbolType="stroke", symbolStrokeWidth=2.5, symbolSize=200)
    color = theme.nominal(alt.Color, "curve", CURVES.values(), [theme.BLUE, theme.VERMILLION], legend=legend)
    dash = theme.nominal(alt.StrokeDash, "curve", CURVES.values(), [[1, 0], [4, 3]])
    scale, axis = alt.Scale(domain=[0, 1]), alt.Axis(format="~%", tickCount=5)
    title = "share of texts"
    base = theme.Chart().encode(x=theme.whole_axis("step", "step", named["step"]), color=color)
    band = (
        base.transform_filter("isValid(datum.share_low) && isValid(datum.share_high)")
        .mark_area(opacity=0.16)
        .encode(y=alt.Y("share_low:Q", title=title, scale=scale, axis=axis), y2=alt.Y2("share_high:Q"))
    )
    y = alt.Y("share:Q", title=title, scale=scale, axis=axis)
    line = base.mark_line(strokeWidth=1.8).encode(y=y, strokeDash=dash)
    tooltip = theme.tooltip("variant:N", "curve:N", "step:Q", "share:Q", "share_low:Q", "share_high:Q")
    # A curve of one step has no line.
    point = base.mark_point(filled=True, size=5, opacity=1).encode(y=y, tooltip=tooltip)
    texts = int(frame["texts"].max())  # type: ignore[arg-type]
    prompts = theme.prompts(int(frame["prompts"].max()))  # type: ignore[arg-type]
    return theme.themed(
        alt.layer(band, line, point, data=theme.rows(data))
        .properties(width=200, height=120)
        .facet(
            facet=alt.Facet("variant:N", title=None, sort=theme.names(named, "variant")),
            columns=3,
            title=theme.title(TITLE, f"{theme.models(frame)} · {texts} texts of {prompts}"),
        )
    )
