"""Share of texts that are still equal to the dense one, by step: sampled and greedy texts."""

from functools import partial

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.display_text import counted

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
NEEDS = "the study has no teacher-forced steps"

# Title, colour and dash of each curve.
CURVES = {
    "equal_share": ("sampled", theme.BLUE, [1, 0]),
    "equal_share_expected": ("sampled, expected from the distributions", theme.VERMILLION, [4, 3]),
    "greedy_share": ("greedy", theme.GREEN, [1, 0]),
    "greedy_share_noise": ("greedy, rounding alone", theme.GREY, [2, 2]),
}


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw one row per model × recipe × step, a panel per variant."""
    named = theme.with_variant(frame)
    shares = (
        named.select(
            *("variant", "step"),
            pl.lit(title).alias("curve"),
            pl.col(f"^{name}(_low|_high)?$").name.replace(f"^{name}", "share"),
        )
        for name, (title, _, _) in CURVES.items()
    )
    data = pl.concat(shares, how="diagonal").drop_nulls("share")
    titles, colors, dashes = zip(*(curve for curve in CURVES.values() if curve[0] in data["curve"]), strict=True)
    color = theme.nominal(alt.Color, "curve", titles, colors, legend=theme.LINES)
    y = partial(alt.Y, title="share of texts", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="~%", tickCount=5))
    base = theme.Chart().encode(x=theme.whole_axis("step", "step", named["step"]), color=color)
    band = theme.valid(base, "share_low", "share_high").mark_area(opacity=0.16)
    dash = theme.nominal(alt.StrokeDash, "curve", titles, dashes)
    tooltip = theme.tooltip("variant:N curve:N step share share_low share_high")
    chart = alt.layer(
        band.encode(**theme.span(y("share_low:Q"), "share_high:Q")),
        base.mark_line(strokeWidth=1.8).encode(y=y("share:Q"), strokeDash=dash),
        # A curve of one step has no line.
        base.mark_point(filled=True, size=5, opacity=1).encode(y=y("share:Q"), tooltip=tooltip),
        data=theme.rows(data),
    ).properties(width=200, height=120)
    texts, prompts, at_risk = frame.select(pl.col("texts", "prompts", "texts_at_risk").max().fill_null(0)).row(0)
    sampled = f"{texts} sampled texts of {counted(prompts, 'prompt')}" if texts else ""
    greedy = f"{at_risk} greedy texts" if at_risk else ""
    panels = theme.faceted(chart, "variant", theme.names(named, "variant"), 3)
    return panels, [theme.about(frame, "model", sampled, greedy)]
