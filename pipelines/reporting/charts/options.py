"""Options of a multiple-choice question: their probabilities among each other, and in the whole vocabulary."""

from functools import partial

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.display_text import counted

TITLE = "Options against the whole vocabulary"
CAPTION = (
    "Left: the probability of each option among the options alone, dense and pruned. Right: the probability that all "
    "options together have in the whole vocabulary. The choice can stay the same although the rest of the distribution "
    "changes. At most six questions are shown, those that break first."
)
NEEDS = "the study asks no multiple-choice question"

SIDES = ["dense", "pruned"]
_STEP = alt.Step(20)


def _dumbbell(data: pl.DataFrame, x: alt.X, y: alt.Y, fields: str) -> theme.AnyChart:
    base = theme.Chart().encode(y=y)
    link = base.transform_filter("datum.side == 'pruned'").mark_rule(style="quiet").encode(**theme.span(x, "dense"))
    ends = base.mark_point(filled=True, size=60, opacity=0.9).encode(
        x=x,
        tooltip=theme.tooltip(fields),
        color=theme.nominal(alt.Color, "side", SIDES, [theme.BLUE, theme.VERMILLION]),
        shape=theme.nominal(alt.Shape, "side", SIDES, ["square", "circle"]),
    )
    return alt.layer(link, ends, data=theme.rows(data))


def _shares(named: pl.DataFrame, y: alt.Y) -> theme.AnyChart:
    """Draw the probability among the options, one panel per option."""
    data = pl.concat(
        named.select(
            *("variant", "panel"),
            pl.lit(side).alias("side"),
            pl.col(f"p_options_{side}").alias("probability"),
            pl.col("p_options_dense").alias("dense"),
            pl.col(f"rank_{side}").alias("rank"),
        )
        for side in SIDES
    )
    axis = alt.Axis(values=[0, 0.5, 1], format="~g")
    x = alt.X("probability:Q", title=["probability", "among options"], scale=alt.Scale(domain=[0, 1]), axis=axis)
    chart = _dumbbell(data, x, y, "variant:N panel:N side:N probability rank").properties(width=130, height=_STEP)
    return theme.faceted(chart, "panel", theme.names(named.sort("option_index"), "panel"), 4, spacing=12)


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw rows of `option_shift` of one model and one question."""
    gold = pl.when("is_gold").then(pl.lit(" (right answer)")).otherwise(pl.lit(""))
    named = theme.with_variant(frame).with_columns(
        (pl.col("option").replace_strict(theme.distinct_labels(frame["option"], 16)) + gold).alias("panel")
    )
    mass = named.group_by("variant", maintain_order=True).agg(
        pl.col("p_full_dense").sum().alias("dense"), pl.col("p_full_pruned").sum().alias("pruned")
    )
    masses = pl.concat(
        mass.select("variant", pl.lit(side).alias("side"), pl.col(side).alias("mass"), "dense") for side in SIDES
    )
    shown = masses.filter(theme.has_logarithm("mass"), theme.has_logarithm("dense"))
    order = theme.names(named, "variant")
    y = partial(alt.Y, "variant:N", title=None, sort=order)
    parts = [_shares(named, y())]
    if shown.height:
        scale, axis = theme.decades(*theme.extent(shown["mass"], shown["dense"]), ticks=4)
        x = alt.X("mass:Q", title=["probability in", "the vocabulary"], scale=scale, axis=axis)
        whole = _dumbbell(shown, x, y(scale=alt.Scale(domain=order)), "variant:N side:N mass")
        title = alt.TitleParams("all options together", fontSize=12, anchor="middle")
        parts.append(whole.properties(width=180, height=_STEP, title=title))
    zeros = masses.height - shown.height
    without = f"without {counted(zeros, 'value')} of exactly 0, which a logarithmic axis cannot show" if zeros else ""
    return alt.hconcat(*parts), [theme.about(frame, "model question temperature"), without]
