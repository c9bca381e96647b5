"""A multiple-choice question on its option tokens: who wins among the options, and how little mass they hold.

Renormalising is the warehouse's business, not this module's.
"""

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.display_text import label

TITLE = "Options against the whole vocabulary"
CAPTION = (
    "Left, the probability of each option among the options alone, dense and pruned; right, the probability that all "
    "options together hold in the whole vocabulary. The choice can survive although the distribution around it does "
    "not. The first six questions by name."
)
QUERY = """\
select model, recipe, prompt_id, temperature, option_index, option, is_gold,
       p_options_dense, p_options_pruned, p_full_dense, p_full_pruned, rank_dense, rank_pruned
from option_shift
semi join reference_temperature using (model, recipe, temperature)
where recipe <> 'dense'
qualify dense_rank() over (partition by model order by prompt_id) <= 6
order by model, prompt_id, recipe, option_index"""

SIDES = ["dense", "pruned"]
STEP = alt.Step(20)


def _side() -> dict[str, alt.Color | alt.Shape]:
    return {
        "color": alt.Color("side:N", title=None, scale=alt.Scale(domain=SIDES, range=[theme.BLUE, theme.VERMILLION])),
        "shape": alt.Shape("side:N", title=None, scale=alt.Scale(domain=SIDES, range=["square", "circle"])),
    }


def _dumbbell(data: pl.DataFrame, x: alt.X, x2: str, y: alt.Y, tooltip: list[alt.Tooltip]) -> theme.AnyChart:
    base = theme.Chart().encode(y=y)
    link = base.transform_filter("datum.side == 'pruned'").mark_rule(style="quiet").encode(x=x, x2=alt.X2(x2))
    ends = base.mark_point(filled=True, size=60, opacity=0.9).encode(x=x, tooltip=tooltip, **_side())
    return alt.layer(link, ends, data=theme.rows(data))


def _shares(named: pl.DataFrame, y: alt.Y) -> theme.AnyChart:
    """Probability among the options, one panel an option."""
    data = pl.concat(
        named.select(
            "variant",
            "panel",
            pl.lit(side).alias("side"),
            pl.col(f"p_options_{side}").alias("probability"),
            pl.col("p_options_dense").alias("dense"),
            pl.col(f"rank_{side}").alias("rank"),
        )
        for side in SIDES
    )
    x = alt.X(
        "probability:Q",
        title="p among options",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(values=[0, 0.5, 1], format="~g"),
    )
    order = named.sort("option_index")["panel"].unique(maintain_order=True).to_list()
    chart: theme.AnyChart = (
        _dumbbell(data, x, "dense", y, theme.tooltip("variant:N", "panel:N", "side:N", "probability:Q", "rank:Q"))
        .properties(width=130, height=STEP)
        .facet(facet=alt.Facet("panel:N", title=None, sort=order), columns=4, spacing=12)
    )
    return chart


def _masses(masses: pl.DataFrame, y: alt.Y) -> theme.AnyChart:
    """Probability of all options together in the whole vocabulary."""
    scale, axis = theme.decades(*theme.extent(masses["mass"], masses["dense"]), ticks=4)
    x = alt.X("mass:Q", title="p in the whole vocabulary", scale=scale, axis=axis)
    return _dumbbell(masses, x, "dense", y, theme.tooltip("variant:N", "side:N", "mass:Q")).properties(
        width=180, height=STEP, title=alt.TitleParams("all options together", fontSize=12, anchor="middle")
    )


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draws rows of `option_shift` of one model and one question."""
    if frame.is_empty():
        return theme.no_data(TITLE, "the study asks no multiple-choice question")
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
    parts = [_shares(named, alt.Y("variant:N", title=None, sort=order))]
    if not shown.is_empty():
        parts.append(_masses(shown, alt.Y("variant:N", title=None, sort=order, scale=alt.Scale(domain=order))))
    questions = ", ".join(label(prompt) for prompt in theme.names(frame, "prompt_id"))
    subtitle = f"{theme.models(frame)} · question {questions} · {theme.temperatures(frame)}"
    left_out = theme.without_zeros(masses.height - shown.height)
    return theme.themed(alt.hconcat(*parts, title=theme.title(TITLE, subtitle, left_out)))
