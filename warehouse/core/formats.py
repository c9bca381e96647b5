"""Conversion of rows to a terminal table, CSV, JSON, Markdown, LaTeX or Parquet.

Polars would refuse equal names, and write NaN as null in JSON.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import chain
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text
from tabulate import tabulate

from prunescope.pipelines.core.escapes import escape_control
from prunescope.warehouse.core import latex
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.core.limits import TEXT_ROWS

FORMATS = ("table", "csv", "json", "markdown", "latex", "parquet")
NULL = "–"
_OUTER_BREAKS = re.compile(r"\A\n+|\n+\Z")


def render(rows: pa.Table, to: str, *, width: int = 120) -> str | bytes:
    """Return the rows in one of `FORMATS`: Parquet as bytes, the others as text that ends in a newline.

    Arguments and errors as in `write`.
    """
    sink = io.BytesIO()
    write(rows, to, sink, width=width)
    return sink.getvalue() if to == "parquet" else sink.getvalue().decode()


def write(rows: pa.Table, to: str, sink: BinaryIO, *, width: int = 120, lines: int = TEXT_ROWS) -> None:
    """Write rows in one of `FORMATS`, or for other programs as `plain` or `arrow`.

    A table has at most `lines` rows, of `width` characters; the other formats have every row. `plain` is JSON with the
    columns' names and types, and rows as lists. `arrow` is Arrow's stream.

    Raises:
        WarehouseError: there is no such format, or it cannot hold two columns of one name.
    """
    names = rows.column_names
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None and to in {"json", "parquet"}:
        raise WarehouseError(f"two columns are named {repeated!r}, which {to} cannot hold; give one an alias (as)")
    match to:
        case "parquet":
            pq.write_table(rows, sink, compression="zstd")
        case "arrow":
            with pa.ipc.new_stream(sink, rows.schema) as writer:
                writer.write_table(rows)
        case "csv":
            _write_csv(rows, sink)
        case "json":
            objects = (_dumps(dict(zip(names, row, strict=True))) for row in _rows(rows))
            sink.write(b"[")
            for number, row in enumerate(objects):
                sink.write(f"{',' * bool(number)}\n{row}".encode())
            sink.write(b"\n]\n")
        case "plain":
            columns = [{"name": field.name, "type": str(field.type)} for field in rows.schema]
            sink.write(_dumps({"columns": columns, "rows": list(_rows(rows))}).encode())
        case "table":
            sink.write(to_text(rows, width, lines).encode())
        case "markdown" | "latex":
            sink.write(_typeset(rows, to).encode())
        case _:
            raise WarehouseError(f"there is no format {to!r}; choose one of {', '.join(FORMATS)}")


def to_text(rows: pa.Table, width: int, lines: int = TEXT_ROWS) -> str:
    """Return the rows as a table for a terminal of that width.

    A single row is shown with one line per column. Otherwise, if not all columns fit, those with one value in all
    rows are named below the table with that value, and so are the names of the last ones that do not fit. The table
    has at most `lines` rows, and below it the number of the others.
    """
    if rows.column_names == ["explain_key", "explain_value"]:  # DuckDB draws the plan itself
        return escape_control("\n".join([*map(str, rows["explain_value"].to_pylist()), ""]), keep="\n")
    names = [escape_control(name) for name in rows.column_names]
    cells = [[escape_control(cell) for cell in column] for column in _cells(rows.slice(0, lines))]
    if rows.num_rows == 1:
        return _terminal_table(["column", "value"], [names, [column[0] for column in cells]], [False, False], width)
    columns = list(range(len(names)))
    equal = [i for i in columns if len(set(cells[i])) == 1]
    if len(_fitting(names, cells, columns, width)) == len(columns) or len(equal) == len(columns):
        equal = []
    columns = [i for i in columns if i not in equal]
    fitting = _fitting(names, cells, columns, width)
    numeric = [is_number(rows.schema.field(i).type) for i in fitting]
    text = _terminal_table([names[i] for i in fitting], [cells[i] for i in fitting], numeric, width)
    if equal:
        text += f"in each of these rows: {', '.join(f'{names[i]} {cells[i][0]}' for i in equal)}\n"
    if left := columns[len(fitting) :]:
        text += f"{len(left)} more {'column' if len(left) == 1 else 'columns'}: {', '.join(names[i] for i in left)}\n"
    if (more := rows.num_rows - lines) > 0:
        rest = "row" if more == 1 else "rows"
        text += f"{more} more {rest}; --format csv or json has all of them, -o FILE writes them to a file\n"
    return text


def _fitting(names: list[str], cells: list[list[str]], columns: list[int], width: int) -> list[int]:
    """Return the first of the columns that fit into the width, at least one."""
    used = 1
    for place, i in enumerate(columns):
        used += 3 + min(max(Text(text).cell_len for text in [names[i], *cells[i]]), max(len(names[i]), 40))
        if used > width and place:
            return columns[:place]
    return columns


def _terminal_table(names: list[str], cells: list[list[str]], numeric: list[bool], width: int) -> str:
    table = RichTable(box=SIMPLE_HEAD, header_style="bold")
    for name, is_right in zip(names, numeric, strict=True):
        table.add_column(Text(name), justify="right" if is_right else "left", overflow="fold")
    for row in zip(*cells, strict=True):
        table.add_row(*map(Text, row))  # Text: brackets in a token are not markup
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def _write_csv(rows: pa.Table, sink: BinaryIO) -> None:
    """Write NULL as an empty field, empty text in quotes and a list as JSON."""
    # Arrow quotes every name in the header, and some readers keep the quotes.
    header = io.StringIO()
    csv.writer(header, lineterminator="\n").writerow(rows.column_names)
    sink.write(header.getvalue().encode())
    for batch in rows.to_batches():
        flat = pa.RecordBatch.from_arrays(list(map(_flat, batch.columns)), names=rows.column_names)
        pyarrow.csv.write_csv(flat, sink, pyarrow.csv.WriteOptions(include_header=False))


def _flat(column: pa.Array) -> pa.Array:
    """Return a column of a type that Arrow writes as CSV."""
    of = column.type
    if pa.types.is_dictionary(of):
        return column.cast(of.value_type)
    if not (pa.types.is_nested(of) or pa.types.is_binary(of) or pa.types.is_temporal(of)):
        return column
    texts = map(_plain, _values(column))
    return pa.array([each if each is None or isinstance(each, str) else _dumps(each) for each in texts], pa.string())


def _rows(rows: pa.Table) -> Iterator[tuple[object, ...]]:
    """Return the rows as Python values, of one batch at a time."""
    return chain.from_iterable(zip(*map(_values, batch.columns), strict=True) for batch in rows.to_batches())


def _typeset(rows: pa.Table, to: str) -> str:
    escaped = markdown_escaped if to == "markdown" else latex.latex_escaped
    names = list(map(escaped, rows.column_names))
    body = list(zip(*(map(escaped, column) for column in _cells(rows)), strict=True))
    numeric = [is_number(field.type) for field in rows.schema]
    if to == "latex":
        letters = "".join("r" if is_right else "l" for is_right in numeric)
        return "\n".join([*latex.tabular(letters, names, map(latex.row, body)), ""])
    return markdown_table(names, body, numeric)


def markdown_table(headings: Sequence[str], body: Sequence[Sequence[str]], is_number: Sequence[bool]) -> str:
    """Return a pipe table from headings and cells in Markdown; numbers are aligned right."""
    sides = ["right" if is_right else "left" for is_right in is_number] if body else None
    return tabulate(body, headings, tablefmt="pipe", disable_numparse=True, colalign=sides) + "\n"


def _cells(rows: pa.Table) -> list[list[str]]:
    """Return the columns as texts for a person."""
    return [[shown_cell(value) for value in _values(column)] for column in rows.columns]


def shown_cell(value: object, digits: int = 4) -> str:
    """Return one value as text for a person, a float with so many significant digits."""
    match value:
        case None:
            text = NULL
        case bool():
            text = "true" if value else "false"
        case float():
            # Large numbers keep all digits before the point and have no exponent.
            text = f"{value:.0f}" if 10**digits <= abs(value) < 1e7 else f"{value:.{digits}g}"
        case list():
            text = ", ".join(shown_cell(item, digits) for item in value)
        case dict():
            text = ", ".join(f"{key}: {shown_cell(item, digits)}" for key, item in value.items())
        case str():
            # No format shows a line break at an end, which is all of some tokens.
            text = _OUTER_BREAKS.sub(lambda breaks: r"\n" * len(breaks[0]), value)
        case Decimal() | bytes():
            text = shown_cell(_plain(value), digits)
        case _:
            text = str(value)
    return text


def _values(column: pa.ChunkedArray | pa.Array) -> list[object]:
    """Return Python values; a float32 as the shortest decimal that is read back as the same float32."""
    of = column.type
    if pa.types.is_float32(of):
        column = column.cast(pa.string()).cast(pa.float64())
    elif pa.types.is_list(of):
        import pyarrow.compute as pc  # slow to import

        items = iter(_values(pc.list_flatten(column)))
        lengths = pc.list_value_length(column).to_pylist()
        return [None if length is None else [next(items) for _ in range(length)] for length in lengths]
    try:
        return list(column.to_pylist())
    except OverflowError:  # a date beyond Python's, such as DuckDB's `infinity`
        return list(column.cast(pa.string()).to_pylist())


def is_number(of: pa.DataType) -> bool:
    """Return whether a column of this type is aligned right."""
    return bool(pa.types.is_integer(of) or pa.types.is_floating(of) or pa.types.is_decimal(of))


def _dumps(value: object) -> str:
    """Return JSON: NaN and infinity are texts, bytes are hexadecimal."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def _plain(value: object) -> object:
    """Return what JSON can hold."""
    plain = value
    match value:
        case float() if not math.isfinite(value):
            plain = {"nan": "NaN", "inf": "Infinity"}.get(str(value), "-Infinity")
        case Decimal():
            plain = int(value) if value == value.to_integral_value() else float(value)
        case list() | tuple():  # a map is a list of pairs
            plain = [_plain(item) for item in value]
        case dict():
            plain = {key: _plain(item) for key, item in value.items()}
        case bytes():
            plain = value.hex()
        case None | bool() | int() | float() | str():
            pass
        case _:
            plain = str(value)
    return plain


def markdown_escaped(text: str) -> str:
    """Escape text for a cell of a Markdown table."""
    text = escape_control(text, keep="\n").replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([|*`\[\]~$])", r"\\\1", text)
    # Markdown takes an underscore within a word literally, so column names stay readable.
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    return text.replace("\n", "<br>")
