"""Asks the statements, for a whole report or one variant at a time for a server; and rows as JSON.

Which documents are made of the rows belongs to their modules.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl

from prunescope.pipelines.reporting.explorer.queries import STATEMENTS
from prunescope.pipelines.reporting.explorer.query import narrowed

Ask = Callable[[str], pl.DataFrame]
DIGITS = 4
# Rows a token and layer, or a token and rank: those of all prompts of a study may be more than the memory holds.
LARGE = ("layers", "top")


class QueryCache:
    """Answers to the statements, each asked once and kept, but for `LARGE` ones: of these, those of one prompt.

    Attributes:
        is_whole: a statement is asked for all variants and its rows are parted here; else for one variant at a time.
    """

    def __init__(self, ask: Ask, *, is_whole: bool) -> None:
        """Keeps what to ask; nothing is asked yet."""
        self._ask = ask
        self.is_whole = is_whole
        self._kept: dict[str, pl.DataFrame] = {}
        self._parts: dict[tuple[str, ...], dict[tuple[object, ...], pl.DataFrame]] = {}
        self._prompts: dict[str, tuple[str, pl.DataFrame, dict[tuple[object, ...], pl.DataFrame]]] = {}

    def all(self, key: str) -> pl.DataFrame:
        """All rows of a statement."""
        return self.answer(STATEMENTS[key].sql)

    def of(self, key: str, **wanted: str) -> pl.DataFrame:
        """The rows of one variant, or of one of its prompts.

        Args:
            key: of a statement that may be narrowed.
            wanted: model, recipe and perhaps prompt_id.
        """
        if not self.is_whole:
            return self.answer(narrowed(STATEMENTS[key], wanted))
        if key in LARGE:
            return self._of_prompt(key, wanted["recipe"], model=wanted["model"], prompt_id=wanted["prompt_id"])
        by = (key, *wanted)
        if by not in self._parts:
            self._parts[by] = self.all(key).partition_by(list(wanted), as_dict=True, maintain_order=True)
        return self._parts[by].get(tuple(wanted.values()), self.all(key).clear())

    def _of_prompt(self, key: str, recipe: str, **prompt: str) -> pl.DataFrame:
        """The rows of one recipe; those of the prompt are asked at once and kept until another prompt's turn."""
        query = narrowed(STATEMENTS[key], prompt)
        if key not in self._prompts or self._prompts[key][0] != query:
            rows = self._ask(query)
            self._prompts[key] = (query, rows, rows.partition_by("recipe", as_dict=True, maintain_order=True))
        _, rows, parts = self._prompts[key]
        return parts.get((recipe,), rows.clear())

    def answer(self, query: str) -> pl.DataFrame:
        """All rows of a SELECT, such as that of a figure."""
        if query not in self._kept:
            self._kept[query] = self._ask(query)
        return self._kept[query]


def numbers(column: pl.Series, digits: int = DIGITS) -> list[float | None]:
    """A column as JSON numbers of so many significant digits; what is no finite number is None."""
    rounded = column.cast(pl.Float64).round_sig_figs(digits)
    return [value if value is not None and math.isfinite(value) else None for value in rounded.to_list()]


def number(value: object, digits: int = 6) -> float | None:
    """One number as `numbers` gives it."""
    return numbers(pl.Series([value]), digits)[0] if isinstance(value, int | float) else None


def place(layer: object, sublayer: object) -> str | None:
    """A sublayer's name, as "12 mlp"; None where there is none."""
    return None if layer is None else f"{layer} {sublayer}"


def table_rows(frame: pl.DataFrame, columns: Sequence[str], show: Callable[[str], str]) -> list[list[Any]]:
    """Rows to print: numbers rounded, texts shown by `show`, lists and truth values as they are."""
    shown = [
        [None if value is None else show(str(value)) for value in column.to_list()]
        if not column.dtype.is_numeric() and column.dtype != pl.Boolean
        else column.to_list()
        if column.dtype.is_integer() or column.dtype == pl.Boolean
        else numbers(column, 6)
        for column in frame.select(columns).iter_columns()
    ]
    return [list(row) for row in zip(*shown, strict=True)]
