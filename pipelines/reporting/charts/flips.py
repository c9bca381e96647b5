"""Share of answers that each variant changes, split into lost, gained and otherwise different."""

from functools import partial

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import method_encoding, theme

TITLE = "Answers that pruning changed"
CAPTION = (
    "Each bar splits the share of samples whose answer differs from the dense model's: right answers lost, right "
    "answers gained, and other changes. The accuracy changes only by the difference of the first two and hides the "
    "rest of the bar. The line across the end of a bar is the 95 % Wilson interval of the whole share. One panel per "
    "task and metric."
)
NEEDS = "the study asks no task"

DIRECTIONS = {
    "lost": "right answer lost",
    "gained": "right answer gained",
    "other": "other answer, as wrong or ungraded",
}
COLORS = [theme.VERMILLION, theme.BLUE, theme.GREY]


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw rows of `q20_answers_flipped` of one model, one panel per task and metric."""
    named = method_encoding.labelled(theme.with_variant(frame), "task", "metric").with_columns(
        pl.format("{}\n{}, {} samples", "task", "metric", "n_samples").alias("panel")
    )
    variants = named["variant"].unique().sort().to_list()
    parts = pl.concat(
        named.select(
            *("panel", "variant"),
            pl.lit(title).alias("direction"),
            pl.lit(number).alias("place"),
            pl.col(column).alias("samples"),
            (pl.col(column) / pl.col("n_samples")).alias("share"),
            *("accuracy_change", "hidden_flips", "mcnemar_p"),
        )
        for number, (column, title) in enumerate(DIRECTIONS.items())
    )
    # The end of each bar and its interval.
    ends = named.select("panel", "variant", "flip_share", "flip_share_low", "flip_share_high")
    x = partial(alt.X, title="share of samples")
    axis = alt.Axis(format="~%", values=[0, 0.5, 1])
    base = theme.Chart().encode(y=alt.Y("variant:N", title=None, sort=variants))
    bars = theme.valid(base, "share").mark_bar(height={"band": 0.75})
    spread = theme.valid(base, "flip_share_low").mark_rule(style="ink", strokeWidth=1.2)
    chart = alt.layer(
        bars.encode(
            x=x("share:Q", stack="zero", axis=axis, scale=alt.Scale(domain=[0, 1])),
            color=theme.nominal(alt.Color, "direction", DIRECTIONS.values(), COLORS),
            order=alt.Order("place:Q"),
            tooltip=theme.tooltip("variant:N direction:N samples share accuracy_change hidden_flips mcnemar_p"),
        ),
        spread.encode(
            **theme.span(x("flip_share_low:Q"), "flip_share_high:Q"),
            tooltip=theme.tooltip("variant:N flip_share flip_share_low flip_share_high"),
        ),
        data=theme.rows(pl.concat([parts, ends], how="diagonal")),
    ).properties(width=190, height=alt.Step(15))
    header = {"labelExpr": "split(datum.value, '\\n')"}
    panels = theme.faceted(chart, "panel", theme.names(named, "panel"), 3, header=header)
    return panels.resolve_axis(x="independent"), [theme.about(frame)]
