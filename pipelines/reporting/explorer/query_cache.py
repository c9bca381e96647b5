"""Results of the statements, for a whole report or for one variant of a live page; and rows as JSON."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import polars as pl

from prunescope.pipelines.reporting.charts.display_text import label, prose, visible
from prunescope.pipelines.reporting.explorer.queries import PROMPT, STATEMENTS, among, narrowed

Ask = Callable[[str], pl.DataFrame]
# What the page reads as JSON. Its fields are the columns of statements; those that are added have a comment there.
Document: TypeAlias = dict[str, Any]
DIGITS = 4
# Maximum display width of a token. Most have a few characters, but a hostile vocabulary may have very long ones.
TOKEN_COLUMNS = 60
# The page identifies models by their displayed names, which are therefore long enough to be unique.
model_name = partial(label, limit=200)
_token = partial(visible, limit=TOKEN_COLUMNS)
# How a text is displayed, by column. Prompts keep their ids, because links need them.
_SHOWN: dict[str, Callable[[str], str]] = {
    "prompt_id": str,
    "model": model_name,
    **dict.fromkeys(("recipe", "method", "kind", "gold", "option"), label),
    **dict.fromkeys(("token_text", "token_text_dense", "token_text_pruned"), _token),
}
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
        if key in LARGE and tuple(where.values()) not in self._focused:
            return self._ask(narrowed(STATEMENTS[key], where))
        query = among(STATEMENTS[key], self._focused) if key in LARGE else STATEMENTS[key].sql
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


def columns(frame: pl.DataFrame, digits: int = DIGITS, width: int = 4000) -> dict[str, list[Any]]:
    """Return a statement's rows for the page, as one list per column.

    Fractions are rounded and text is safe to display (`_SHOWN`, otherwise `prose`). All other values are unchanged.

    Args:
        frame: the rows.
        digits: significant digits of fractions.
        width: maximum number of characters of running text.
    """
    found: dict[str, list[Any]] = {}
    for column in frame.iter_columns():
        if column.dtype == pl.List(pl.Float64):
            found[column.name] = [None if value is None else numbers(value, digits) for value in column]
        elif column.dtype.is_numeric() and not column.dtype.is_integer():
            found[column.name] = numbers(column, digits)
        elif column.dtype.is_integer() or column.dtype == pl.Boolean:
            found[column.name] = column.to_list()
        else:
            show = _SHOWN.get(column.name) or partial(prose, limit=width)
            found[column.name] = [None if value is None else show(str(value)) for value in column.to_list()]
    return found


def rows(frame: pl.DataFrame, digits: int = 6, width: int = 4000) -> list[Document]:
    """Return a statement's rows for the page, as `columns` does, with one object per row."""
    values = columns(frame, digits, width)
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def table(title: str, frame: pl.DataFrame, sql: Document | str, width: int = 200) -> Document:
    """Return a statement's rows as a table of the page; `sql` is their source or the key of the statement."""
    values = columns(frame, 6, width)
    return {
        "title": title,
        "columns": list(values),
        "rows": [list(row) for row in zip(*values.values(), strict=True)],
        "sql": sql,
    }


def source(key: str, row: Mapping[str, Any] | None = None, **where: str) -> Document:
    """Return the SQL of a sentence or number: a statement, and the filter of its rows, by default that of one row."""
    return {"key": key, "where": {name: str(row[name]) for name in STATEMENTS[key].narrow} if row else where}


def parts(frame: pl.DataFrame, column: str) -> dict[str, pl.DataFrame]:
    """Return the rows of each value of a column, in their order and without that column."""
    split = frame.partition_by(column, as_dict=True, maintain_order=True, include_key=False)
    return {str(value): part for (value,), part in split.items()}


def of_model(frame: pl.DataFrame, model: str) -> pl.DataFrame:
    """Return the rows of one model."""
    return frame.filter(pl.col("model").cast(pl.String) == model)
