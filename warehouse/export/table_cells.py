"""Cells of a printed table from rows and their format, and the table as Markdown."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa

from prunescope.pipelines.core.escapes import escape_control
from prunescope.warehouse.core.formats import NULL, is_number, markdown_escaped, markdown_table, shown_cell
from prunescope.warehouse.export import best_marks
from prunescope.warehouse.export.best_marks import BestMark
from prunescope.warehouse.export.rounding import rounded
from prunescope.warehouse.export.table_spec import ColumnFormat, TableSpec, uncertainty


@dataclass(frozen=True)
class Cell:
    """Text of a cell, without control characters and not escaped for any format."""

    text: str
    mark: BestMark = BestMark.NONE


@dataclass(frozen=True)
class RenderedColumn:
    """Column of a printed table: its heading with the unit, whether it has numbers or belongs to the key, its cells."""

    heading: str
    is_number: bool
    is_key: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class RenderedTable:
    """Table that is ready to be written in any format.

    Attributes:
        name: for labels and ids.
        caption: above the table.
        notes: below the table, one or more sentences each.
        columns: from left to right; columns of numbers are aligned right.
        breaks: rows before which a new group begins.
    """

    name: str
    caption: str
    notes: tuple[str, ...]
    columns: tuple[RenderedColumn, ...]
    breaks: frozenset[int]

    @property
    def rows(self) -> list[tuple[Cell, ...]]:
        """Cells per row."""
        return list(zip(*(column.cells for column in self.columns), strict=True))


def printed(name: str, rows: pa.Table, layout: TableSpec, key: Collection[str] = ()) -> RenderedTable:
    """Return the printed table of a view's rows; `key` has the names of its key columns."""
    groups = list(zip(*(rows[column].to_pylist() for column in layout.within), strict=True)) or [()] * rows.num_rows
    columns = tuple(
        RenderedColumn(
            heading=column.title,
            is_number=bool(column.of) or is_number(rows.schema.field(column.name).type),
            is_key=column.name in key,
            cells=tuple(_cells(column, rows, groups)),
        )
        for column in layout.columns
    )
    notes = [layout.note] if layout.note else []
    if any(cell.mark is not BestMark.NONE for column in columns for cell in column.cells):
        has_errors = any(column.best and len(uncertainty(column.name, rows.schema)) == 1 for column in layout.columns)
        notes.append(best_marks.NOTE if has_errors else best_marks.PLAIN_NOTE)
    breaks = (index for index, (one, other) in enumerate(pairwise(groups), start=1) if one != other)
    return RenderedTable(name, layout.caption, tuple(notes), columns, frozenset(breaks))


def to_markdown(table: RenderedTable) -> str:
    """Return a pipe table with its caption above and its notes below."""
    is_number = [column.is_number for column in table.columns]
    body = [list(map(_markdown_cell, row, is_number)) for row in table.rows]
    piped = markdown_table([markdown_escaped(column.heading) for column in table.columns], body, is_number)
    notes = "".join(f"\n{markdown_escaped(note)}\n" for note in table.notes)
    return f"**{markdown_escaped(table.caption)}**\n\n{piped}{notes}"


def _cells(column: ColumnFormat, rows: pa.Table, groups: Sequence[object]) -> Iterator[Cell]:
    values = rows[column.name].to_pylist()
    # Per row nothing, the standard error, or both ends of the interval.
    spread = [rows[name].to_pylist() for name in uncertainty(column.name, rows.schema)]
    spreads = list(zip(*spread, strict=True)) or [()] * len(values)
    wholes = rows[column.of].to_pylist() if column.of else values
    marks = [BestMark.NONE] * len(values)
    if column.best:
        recipes = rows["recipe"].to_pylist() if "recipe" in rows.column_names else marks
        errors = spread[0] if len(spread) == 1 else [None] * len(values)
        members: dict[object, list[int]] = {}
        for index, (group, recipe) in enumerate(zip(groups, recipes, strict=True)):
            if recipe != "dense":
                members.setdefault(group, []).append(index)
        for indices in members.values():
            compared = [values[index] for index in indices], [errors[index] for index in indices]
            of_group = best_marks.marks(*compared, smaller_is_better=column.best == "min")
            for index, mark in zip(indices, of_group, strict=True):
                marks[index] = mark
    for value, ends, whole, mark in zip(values, spreads, wholes, marks, strict=True):
        yield Cell(escape_control(_text(column, value, ends, whole), "\n\t"), mark)


def _text(column: ColumnFormat, value: Any, spread: Sequence[float | None], whole: object) -> str:  # noqa: ANN401 - any column
    if value is None or (column.of and not whole):
        return NULL
    if column.of:
        return f"{value} of {whole}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return shown_cell(value, 3)
    if isinstance(value, int) and not spread and column.scale == 1:
        return str(value)
    known = [end * column.scale for end in spread if end is not None]
    error = known[0] if known and len(spread) == 1 else None
    return rounded(float(value) * column.scale, error, known if len(known) == 2 else ())


def _markdown_cell(cell: Cell, is_number: bool) -> str:
    text = cell.text if is_number else markdown_escaped(cell.text)  # the brackets of an interval stay as they are
    form = {BestMark.BEST: "**{}**", BestMark.SECOND: "<u>{}</u>"}.get(cell.mark, "{}")
    return form.format(text)
