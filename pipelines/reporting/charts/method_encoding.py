"""Encodings shared by the charts that compare whole variants: marks of methods, scores, intervals, panels."""

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.display_text import label

SCORE_TITLES = {
    "non_generative": "mean score, answered by choosing",
    "generative": "mean score, answered by writing",
    "agreement": "same answer as dense, written",
    "top1": "same top token, teacher forced",
}
SCORE_CAPTION = (
    "Scores are means over tasks. The score of a task is the mean of its metrics without agreement with the dense "
    "model, which has its own panel. The last panel is the share of teacher-forced steps with the dense model's most "
    "likely token. Bars are 95 % intervals (Wilson, over samples or prompts); without a bar the error is unknown or 0."
)

_SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right"]
# Slot i has colour i mod 8 and shape i mod 7, so that 56 slots differ in colour, shape or both. Methods that are
# compared most often come first and have their own colours. Append new methods at the end, so that the others keep
# their slots.
KNOWN = (
    "attn-drop", "mlp-drop", "block-drop", "wanda", "magnitude", "sparsegpt", "attn+mlp-drop", "dense",
    "rtn", "gptq", "awq", "ria", "admm", "flap", "neurons", "heads", "external", "composed", "mixed", "python",
)  # fmt: skip
_FREE = range(len(KNOWN), len(theme.CATEGORIES) * len(_SHAPES))


def slots(methods: Iterable[str]) -> dict[str, int]:
    """Map each method to the slot of its colour and shape, the same in every figure; sorted by slot.

    An unknown method has one of the free slots, chosen by the checksum of its name. If two in one figure have the same
    slot, the later name takes the next free one.
    """
    taken = {method: KNOWN.index(method) for method in set(methods) & set(KNOWN)}
    for method in sorted(set(methods) - set(KNOWN)):
        first = zlib.crc32(method.encode()) % len(_FREE)
        candidates = [*_FREE[first:], *_FREE[:first]]
        taken[method] = next((slot for slot in candidates if slot not in taken.values()), candidates[0])
    return dict(sorted(taken.items(), key=lambda item: item[1]))


def encodings(methods: Iterable[str], columns: int | None = None) -> dict[str, Any]:
    """Return colour and shape of the field `method`, whose legend has one row, or the given number of columns."""
    legend = alt.Legend(symbolOpacity=1, symbolSize=70, columns=columns or alt.Undefined)
    return {
        "color": alt.Color("method:N", title=None, scale=scale(methods), legend=legend),
        "shape": alt.Shape("method:N", title=None, scale=scale(methods, _SHAPES), legend=legend),
    }


def scale(methods: Iterable[str], values: Sequence[str] = theme.CATEGORIES) -> alt.Scale:
    """Return the colours of the methods, or other values by slot; the legend shows no others."""
    taken = slots(methods)
    return alt.Scale(domain=list(taken), range=[values[slot % len(values)] for slot in taken.values()])


def labelled(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """Replace names in columns, which may be any text, by distinct labels that are safe to display."""
    return frame.with_columns(
        pl.col(column).cast(pl.String).replace_strict(theme.distinct_labels(frame[column].drop_nulls()), default=None)
        for column in columns
    )


def panel_titles(frame: pl.DataFrame, column: str, titles: dict[str, str]) -> tuple[pl.DataFrame, list[str]]:
    """Add the column `panel`, the title of each value of a column, and return the panels in the order of the titles."""
    named = frame.with_columns(pl.col(column).cast(pl.String).replace(titles).alias("panel"))
    present = set(named["panel"])
    known = [title for title in titles.values() if title in present]
    return named, known + sorted(label(panel) for panel in present - set(known))


def padded(*columns: pl.Series, share: float = 0.06) -> alt.Scale:
    """Return a linear scale over the values of columns that are not null, with a margin and without zero."""
    low, high = theme.extent(*(column for column in columns if column.count()))
    margin = share * ((high - low) or abs(high) or 1.0)
    return alt.Scale(domain=[low - margin, high + margin], nice=False, zero=False)
