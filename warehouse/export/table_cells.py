"""Cells of a printed table from rows and their format, and the table as Markdown."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pyarrow as pa

from prunescope.pipelines.core.escapes import escape_control
from prunescope.warehouse.core.formats import NULL, is_number, markdown_escaped, markdown_table, shown_cell
from prunescope.warehouse.export import best_marks
from prunescope.warehouse.export.best_marks import BestMark
from prunescope.warehouse.export.rounding import rounded
from prunescope.warehouse.export.table_spec import ColumnFormat, TableSpec


@dataclass(frozen=True)
class Cell:
    """Text of a cell, without control characters and not escaped for any format."""

    text: str
    mark: BestMark = BestMark.NONE


@dataclass(frozen=True)
class RenderedTable:
    """Table that is ready to be written in any format.

    Attributes:
        name: for labels and ids.
        caption: above the table.
        notes: below the table, one or more sentences each.
        headings: with units.
        is_number: which columns are aligned right.
        rows: cells per row.
        breaks: rows before which a new group begins.
        key: indices of the key columns.
    """

    name: str
    caption: str
    notes: tuple[str, ...]
    headings: tuple[str, ...]
    is_number: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]
    breaks: frozenset[int]
    key: frozenset[int] = frozenset()


def printed(name: str, rows: pa.Table, layout: TableSpec, key: Collection[str] = ()) -> RenderedTable:
    """Return the printed table of a view's rows; `key` has the names of its key columns."""
    values = {name: rows[name].to_pylist() for column in layout.columns for name in column.reads}
    groups = list(zip(*(rows[column].to_pylist() for column in layout.within), strict=True)) or [()] * rows.num_rows
    recipes = rows["recipe"].to_pylist() if "recipe" in rows.column_names else [None] * rows.num_rows
    is_markable = [recipe != "dense" for recipe in recipes]
    columns, notes = [], [layout.note] if layout.note else []
    for column in layout.columns:
        marks = _marks(column, values, groups, is_markable)
        texts = (escape_control(_text(column, values, index), "\n\t") for index in range(rows.num_rows))
        columns.append(list(map(Cell, texts, marks)))
    if any(cell.mark is not BestMark.NONE for column in columns for cell in column):
        has_errors = any(column.best and column.error for column in layout.columns)
        notes.append(best_marks.NOTE if has_errors else best_marks.PLAIN_NOTE)
    return RenderedTable(
        name=name,
        caption=layout.caption,
        notes=tuple(notes),
        headings=tuple(column.title for column in layout.columns),
        is_number=tuple(bool(column.of) or is_number(rows.schema.field(column.name).type) for column in layout.columns),
        rows=tuple(zip(*columns, strict=True)),
        breaks=frozenset(index for index, (one, other) in enumerate(pairwise(groups), start=1) if one != other),
        key=frozenset(index for index, column in enumerate(layout.columns) if column.name in key),
    )


def to_markdown(table: RenderedTable) -> str:
    """Return a pipe table with its caption above and its notes below."""
    body = [list(map(_markdown_cell, row, table.is_number)) for row in table.rows]
    piped = markdown_table([*map(markdown_escaped, table.headings)], body, table.is_number)
    notes = "".join(f"\n{markdown_escaped(note)}\n" for note in table.notes)
    return f"**{markdown_escaped(table.caption)}**\n\n{piped}{notes}"


def _text(column: ColumnFormat, values: dict[str, list[object]], index: int) -> str:
    value = values[column.name][index]
    if value is None:
        return NULL
    if column.of:
        whole = values[column.of][index]
        return f"{value} of {whole}" if whole else NULL
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return shown_cell(value, 3)
    if isinstance(value, int) and not column.error and not column.interval and column.scale == 1:
        return str(value)
    error = _float(values[column.error][index] if column.error else None, column.scale)
    ends = [_float(values[end][index], column.scale) for end in column.interval]
    interval = [end for end in ends if end is not None]
    scaled = float(value) * column.scale
    return rounded(scaled, error, interval if len(interval) == 2 else ())


def _float(value: object, scale: int) -> float | None:
    return float(value) * scale if isinstance(value, (int, float)) else None


def _marks(
    column: ColumnFormat, values: dict[str, list[object]], groups: Sequence[object], is_markable: Sequence[bool]
) -> list[BestMark]:
    """Return the marks of one column, which compare the rows of a group."""
    marks = [BestMark.NONE] * len(groups)
    if not column.best:
        return marks
    indices: dict[object, list[int]] = {}
    for index, group in enumerate(groups):
        if is_markable[index]:
            indices.setdefault(group, []).append(index)
    for members in indices.values():
        numbers = [_float(values[column.name][index], 1) for index in members]
        errors = [_float(values[column.error][index], 1) if column.error else None for index in members]
        of_group = best_marks.marks(numbers, errors, smaller_is_better=column.best == "min")
        for index, mark in zip(members, of_group, strict=True):
            marks[index] = mark
    return marks


def _markdown_cell(cell: Cell, is_number: bool) -> str:
    text = cell.text if is_number else markdown_escaped(cell.text)  # the brackets of an interval stay as they are
    form = {BestMark.BEST: "**{}**", BestMark.SECOND: "<u>{}</u>"}.get(cell.mark, "{}")
    return form.format(text)
