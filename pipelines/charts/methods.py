"""What the charts that compare whole variants share: a mark for each method, scores of all kinds, intervals.

Which variants are compared belongs to the charts.
"""

import altair as alt
import polars as pl

from pipelines.charts import theme
from pipelines.charts.text import label

# What a variant keeps of the dense model, by tasks and, where there are none, by the tokens that it would write.
KEPT = """\
select model, recipe, kind as measure, 1 - loss as kept, loss_se as kept_se, n_tasks
from task_losses
where measure = 'score'
union all
select model, recipe, 'top1' as measure, top1_agreement as kept, top1_agreement_se as kept_se, null as n_tasks
from paper_variants
where recipe <> 'dense' and top1_agreement is not null"""
KEPT_TITLES = {
    "non_generative": "tasks answered by choosing",
    "generative": "tasks answered by writing",
    "top1": "same top token, teacher forced",
}
KEPT_CAPTION = (
    "For tasks, what is kept is the part of the dense score above a guess that is left, the mean over the tasks whose "
    "dense score is above a guess; the last panel is the share of teacher-forced steps with the dense model's most "
    "likely token. Bars are 95 % intervals (1.96 standard errors, over samples or prompts); where there is no bar no "
    "error is known."
)

_SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right"]


def encodings(methods: pl.Series, column: str = "method") -> dict[str, alt.Color | alt.Shape]:
    """A colour and a shape for each method, by the order of the names; both tell the first fifty-six apart."""
    names = sorted(methods.unique())
    legend = alt.Legend(symbolOpacity=1, symbolSize=70, columns=6)
    scales = [
        alt.Scale(domain=names, range=[kinds[i % len(kinds)] for i in range(len(names))])
        for kinds in (theme.CATEGORIES, _SHAPES)
    ]
    return {
        "color": alt.Color(f"{column}:N", title=None, scale=scales[0], legend=legend),
        "shape": alt.Shape(f"{column}:N", title=None, scale=scales[1], legend=legend),
    }


def labelled(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """The frame with names from outside made safe to look at, those that look the same kept apart."""
    return frame.with_columns(
        pl.col(column).cast(pl.String).replace_strict(theme.distinct_labels(frame[column].drop_nulls()), default=None)
        for column in columns
    )


def with_interval(frame: pl.DataFrame, value: str, error: str) -> pl.DataFrame:
    """The frame with `low` and `high`, the 95 % interval of a value with a standard error; null without one."""
    return frame.with_columns(
        (pl.col(value) - 1.96 * pl.col(error)).alias("low"), (pl.col(value) + 1.96 * pl.col(error)).alias("high")
    )


def panel_titles(frame: pl.DataFrame, column: str, titles: dict[str, str]) -> tuple[pl.DataFrame, list[str]]:
    """The frame with a `panel` for each value of the column, and the panels in the order of the titles."""
    named = frame.with_columns(pl.col(column).cast(pl.String).replace(titles).alias("panel"))
    present = set(named["panel"])
    known = [title for title in titles.values() if title in present]
    return named, known + sorted(label(panel) for panel in present - set(known))


def padded(*columns: pl.Series, share: float = 0.06) -> alt.Scale:
    """A linear scale over the columns' values with a margin, which does not reach for zero."""
    low, high = theme.extent(*columns)
    margin = share * ((high - low) or abs(high) or 1.0)
    return alt.Scale(domain=[low - margin, high + margin], nice=False, zero=False)
