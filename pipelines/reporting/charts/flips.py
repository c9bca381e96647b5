"""Share of answers that each variant changes, split into lost, gained and otherwise different."""

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

DIRECTIONS = {
    "lost": "right answer lost",
    "gained": "right answer gained",
    "other": "other answer, as wrong or ungraded",
}
COLORS = [theme.VERMILLION, theme.BLUE, theme.GREY]


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draw rows of `q20_answers_flipped` of one model, one panel per task and metric."""
    if frame.is_empty():
        return theme.no_data(TITLE, "the study asks no task")
    named = method_encoding.labelled(theme.with_variant(frame), "task", "metric").with_columns(
        pl.format("{}\n{}, {} samples", "task", "metric", "n_samples").alias("panel")
    )
    order = theme.names(named, "panel")
    variants = named["variant"].unique().sort().to_list()
    parts = pl.concat(
        named.select(
            "panel",
            "variant",
            pl.lit(title).alias("direction"),
            pl.lit(number).alias("place"),
            pl.col(column).alias("samples"),
            (pl.col(column) / pl.col("n_samples")).alias("share"),
            "accuracy_change",
            "hidden_flips",
            "mcnemar_p",
        )
        for number, (column, title) in enumerate(DIRECTIONS.items())
    )
    # The end of each bar and its interval.
    ends = named.select("panel", "variant", "flip_share", "flip_share_low", "flip_share_high")
    x = alt.X(
        "share:Q",
        title="share of samples",
        stack="zero",
        axis=alt.Axis(format="~%", values=[0, 0.5, 1]),
        scale=alt.Scale(domain=[0, 1]),
    )
    base = theme.Chart().encode(y=alt.Y("variant:N", title=None, sort=variants))
    bars = (
        base.transform_filter("isValid(datum.share)")
        .mark_bar(height={"band": 0.75})
        .encode(
            x=x,
            color=theme.nominal(alt.Color, "direction", DIRECTIONS.values(), COLORS),
            order=alt.Order("place:Q"),
            tooltip=theme.tooltip(
                "variant:N", "direction:N", "samples:Q", "share:Q", "accuracy_change:Q", "hidden_flips:Q", "mcnemar_p:Q"
            ),
        )
    )
    spread = (
        base.transform_filter("isValid(datum.flip_share_low)")
        .mark_rule(style="ink", strokeWidth=1.2)
        .encode(
            x=alt.X("flip_share_low:Q", title="share of samples"),
            x2=alt.X2("flip_share_high:Q"),
            tooltip=theme.tooltip("variant:N", "flip_share:Q", "flip_share_low:Q", "flip_share_high:Q"),
        )
    )
    return theme.themed(
        alt.layer(bars, spread, data=theme.rows(pl.concat([parts, ends], how="diagonal")))
        .properties(width=190, height=alt.Step(15))
        .facet(
            facet=alt.Facet(
                "panel:N", title=None, sort=order, header=alt.Header(labelExpr="split(datum.value, '\\n')")
            ),
            columns=3,
            title=theme.title(TITLE, theme.models(frame)),
        )
        .resolve_axis(x="independent")
    )
