"""Results of the statements, for a whole report or for one variant of a live page; and rows as JSON."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import polars as pl

from prunescope.pipelines.reporting.charts.display_text import prose
from prunescope.pipelines.reporting.explorer.document_types import TextOutcome
from prunescope.pipelines.reporting.explorer.queries import PROMPT, STATEMENTS, among, narrowed

Ask = Callable[[str], pl.DataFrame]
DIGITS = 4
# Statements with one row per token and layer, or token and rank: all prompts of a study may exceed the memory.
LARGE = ("layers", "top")
Text: TypeAlias = tuple[str, str, str]  # model, recipe, prompt_id


class QueryCache:
    """Cached results of queries; for a `LARGE` statement, only of the texts of the last `focus`.

    Attributes:
        is_whole: whether a statement runs once for all variants and is partitioned here; otherwise it runs once per
            variant.
        answer: function that returns all rows of a SELECT, such as that of a figure.
    """

    def __init__(self, ask: Ask, *, is_whole: bool) -> None:
        """Store the query function; run nothing."""
        self._ask = ask
        self.is_whole = is_whole
        self.answer: Ask = functools.cache(ask)
        self._parts: dict[tuple[str, ...], dict[tuple[object, ...], pl.DataFrame]] = {}
        self._focused: Sequence[Text] = ()

    def all(self, key: str) -> pl.DataFrame:
        """Return all rows of a statement."""
        return self.answer(STATEMENTS[key].sql)

    def of(self, key: str, **where: str) -> pl.DataFrame:
        """Return the rows of one variant, or of one of its prompts.

        Args:
            key: key of a statement that may be narrowed.
            where: model, recipe and optionally prompt_id.
        """
        if not self.is_whole:
            return self.answer(narrowed(STATEMENTS[key], where))
        query = STATEMENTS[key].sql
        if key in LARGE:
            text = (where["model"], where["recipe"], where["prompt_id"])
            if text not in self._focused:
                return self._ask(narrowed(STATEMENTS[key], where))
            query = among(STATEMENTS[key], self._focused)
        by = (query, *where)
        if by not in self._parts:
            rows = self._ask(query) if key in LARGE else self.answer(query)
            self._parts[by] = rows.partition_by(list(where), as_dict=True, maintain_order=True)
            self._parts[by][()] = rows.clear()
        return self._parts[by].get(tuple(where.values()), self._parts[by][()])

    def focus(self, texts: Sequence[Text]) -> None:
        """Query the `LARGE` statements for all these texts together from now on, and forget those of the last call."""
        for key in LARGE if self._focused else ():
            self._parts.pop((among(STATEMENTS[key], self._focused), *PROMPT), None)
        self._focused = texts


def numbers(column: pl.Series, digits: int = DIGITS) -> list[float | None]:
    """Return a column as JSON numbers with `digits` significant digits; values that are not finite become None."""
    rounded = column.cast(pl.Float64).round_sig_figs(digits)
    return [value if value is not None and math.isfinite(value) else None for value in rounded.to_list()]


def number(value: object, digits: int = 6) -> float | None:
    """Return one number as `numbers` does."""
    return numbers(pl.Series([value]), digits)[0] if isinstance(value, int | float) else None


def text_outcome(text: Mapping[str, Any], parts: Mapping[str, Any], width: int) -> TextOutcome:
    """Return the outcome of a row of statement `texts` and its row of `parts`, if any; cut answers to `width`."""
    return {
        "first_flip_step": text["first_flip_step"],
        "collapse_step": text["collapse_step"],
        "collapse_step_dense": text["collapse_step_dense"],
        "answer": None if text["answer"] is None else prose(text["answer"], width),
        "answer_dense": None if text["answer_dense"] is None else prose(text["answer_dense"], width),
        "is_correct": text["is_correct"],
        "is_correct_dense": text["is_correct_dense"],
        "parts_at": sublayer_name(parts.get("layer"), parts.get("sublayer")),
        "parts_for_good_at": sublayer_name(parts.get("from_layer"), parts.get("from_sublayer")),
    }


def sublayer_name(layer: object, sublayer: object) -> str | None:
    """Return the name of a sublayer, as "12 mlp", or None."""
    return None if layer is None else f"{layer} {sublayer}"


def table_rows(frame: pl.DataFrame, columns: Sequence[str], show: Callable[[str], str]) -> list[list[Any]]:
    """Return rows for display: numbers rounded, booleans unchanged, other values as text converted by `show`."""
    values = [
        [None if value is None else show(str(value)) for value in column.to_list()]
        if not column.dtype.is_numeric() and column.dtype != pl.Boolean
        else column.to_list()
        if column.dtype.is_integer() or column.dtype == pl.Boolean
        else numbers(column, 6)
        for column in frame.select(columns).iter_columns()
    ]
    return [list(row) for row in zip(*values, strict=True)]
