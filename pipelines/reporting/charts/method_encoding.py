"""What the charts that compare whole variants share: a mark for each method, scores of all kinds, intervals.

Which variants are compared belongs to the charts.
"""

import zlib
from collections.abc import Iterable
from typing import Any

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.display_text import label

# How good a variant is, dense model included: by tasks, and by the tokens that it would write.
SCORES = """\
select model, recipe, measure, score, score_se, n_tasks
from score_means
union all
select model, recipe, 'top1' as measure, top1_agreement as score, top1_agreement_se as score_se, null as n_tasks
from paper_variants
where top1_agreement is not null"""
SCORE_TITLES = {
    "non_generative": "mean score, answered by choosing",
    "generative": "mean score, answered by writing",
    "agreement": "same answer as dense, written",
    "top1": "same top token, teacher forced",
}
SCORE_CAPTION = (
    "Scores are means over tasks, each task's the mean of its metrics but agreement with the dense model, which has a "
    "panel of its own; the last panel is the share of teacher-forced steps with the dense model's most likely token. "
    "Bars are 95 % intervals (1.96 standard errors, over samples or "
    "prompts) within 0 to 1; where there is no bar no error is known or it is 0, as where all samples fail."
)

_SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right"]
# Place i has colour i mod 8 and shape i mod 7, so that fifty-six places differ in one or both. What stands beside each
# other most often comes first, each with a colour of its own; a method that is new goes to the end.
KNOWN = (
    "attn-drop", "mlp-drop", "block-drop", "wanda", "magnitude", "sparsegpt", "attn+mlp-drop", "dense",
    "rtn", "gptq", "awq", "ria", "admm", "flap", "neurons", "heads", "external", "composed",
)  # fmt: skip
_FREE = range(len(KNOWN), len(theme.CATEGORIES) * len(_SHAPES))


def places(methods: Iterable[str]) -> dict[str, int]:
    """Method → the place of its colour and shape, which is the same in every figure; in the order of the places.

    A method that is not known has one of the free places, by the checksum of its name; where two of one figure fall on
    the same, the later name moves to the next one that is free.
    """
    found = {method: KNOWN.index(method) for method in set(methods) & set(KNOWN)}
    for method in sorted(set(methods) - set(KNOWN)):
        first = zlib.crc32(method.encode()) % len(_FREE)
        candidates = [*_FREE[first:], *_FREE[:first]]
        found[method] = next((place for place in candidates if place not in found.values()), candidates[0])
    return dict(sorted(found.items(), key=lambda item: item[1]))


def color_scale(methods: Iterable[str]) -> alt.Scale:
    """The colours of the methods; the legend shows no others."""
    return _scale(methods, theme.CATEGORIES)


def encodings(methods: Iterable[str]) -> dict[str, Any]:
    """Colour and shape of the field `method`."""
    legend = alt.Legend(symbolOpacity=1, symbolSize=70)
    return {
        "color": alt.Color("method:N", title=None, scale=color_scale(methods), legend=legend),
        "shape": alt.Shape("method:N", title=None, scale=_scale(methods, _SHAPES), legend=legend),
    }


def _scale(methods: Iterable[str], kinds: list[str]) -> alt.Scale:
    found = places(methods)
    return alt.Scale(domain=list(found), range=[kinds[place % len(kinds)] for place in found.values()])


def labelled(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """The frame with names from outside made safe to look at, those that look the same kept apart."""
    return frame.with_columns(
        pl.col(column).cast(pl.String).replace_strict(theme.distinct_labels(frame[column].drop_nulls()), default=None)
        for column in columns
    )


def with_interval(frame: pl.DataFrame, value: str, error: str) -> pl.DataFrame:
    """The frame with `low` and `high`, the 95 % interval of a share with a standard error; null without one."""
    return frame.with_columns(
        (pl.col(value) + sign * 1.96 * pl.col(error)).clip(0, 1).alias(name)
        for name, sign in (("low", -1), ("high", 1))
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
