"""Share of texts that are still equal to the dense one, by step: sampled and greedy texts."""

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme

TITLE = "Texts that are still the dense model's own"
CAPTION = (
    "Share of texts that equal the dense model's text up to and including each step. Sampled texts share their random "
    "numbers with the dense model's. Their share is drawn as measured, and as expected from the two distributions of "
    "every step, which give the chance that the same random number draws another token (at least their total "
    "variation). The expected curve uses the same texts, so it differs from the measured one by chance alone. It ends "
    "when no text is equal any more. Greedy texts flip at their first teacher-forced disagreement; texts that end "
    "leave the risk set (Kaplan-Meier). Rounding alone is the lowest curve of the noise variants. Bands are 95 % "
    "intervals over prompts: Student's t, Wilson's if all texts or none are equal, and for greedy texts Wilson's with "
    "Peto's number of texts. If the interval is not known, there is no band. A model with more than 64 steps shows at "
    "most 64, and the last."
)

# Title, colour and dash of each curve.
CURVES = {
    "equal_share": ("sampled", theme.BLUE, [1, 0]),
    "equal_share_expected": ("sampled, expected from the distributions", theme.VERMILLION, [4, 3]),
    "greedy_share": ("greedy", theme.GREEN, [1, 0]),
    "greedy_share_noise": ("greedy, rounding alone", theme.GREY, [2, 2]),
}
_PARTS = ("", "_low", "_high")


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draw one row per model × recipe × step, a panel per variant."""
    if frame.is_empty():
        return theme.no_data(TITLE, "the study has no teacher-forced steps")
    named = theme.with_variant(frame)
    missing = pl.lit(None, pl.Float64)
    data = pl.concat(
        named.select(
            "variant",
            "step",
            pl.lit(title).alias("curve"),
            *(
                (pl.col(name + part) if name + part in frame.columns else missing).alias(f"share{part}")
                for part in _PARTS
            ),
        )
        for name, (title, _, _) in CURVES.items()
    ).drop_nulls("share")
    titles, colors, dashes = zip(*(curve for curve in CURVES.values() if curve[0] in data["curve"]), strict=True)
    # The bands are pale; the legend is not.
    legend = alt.Legend(symbolOpacity=1, symbolType="stroke", symbolStrokeWidth=2.5, symbolSize=200)
    color = theme.nominal(alt.Color, "curve", titles, list(colors), legend=legend)
    dash = theme.nominal(alt.StrokeDash, "curve", titles, list(dashes))
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
    counts = frame.select(pl.col("texts", "prompts", "texts_at_risk").max().fill_null(0)).row(0)
    sampled = [f"{counts[0]} sampled texts of {theme.prompts(counts[1])}"] if counts[0] else []
    greedy = [f"{counts[2]} greedy texts"] if counts[2] else []
    return theme.themed(
        alt.layer(band, line, point, data=theme.rows(data))
        .properties(width=200, height=120)
        .facet(
            facet=alt.Facet("variant:N", title=None, sort=theme.names(named, "variant")),
            columns=3,
            title=theme.title(TITLE, " · ".join([theme.models(frame), *sampled, *greedy])),
        )
    )
