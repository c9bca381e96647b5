"""Conversion of rows to a terminal table, CSV, JSON, Markdown, LaTeX or Parquet."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator
from datetime import UTC
from decimal import Decimal
from typing import BinaryIO, Literal, get_args

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text
from tabulate import tabulate

from prunescope.warehouse.core import latex
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.core.limits import TEXT_ROWS
from prunescope.warehouse.core.quoting import escape_control

Format = Literal["table", "csv", "json", "markdown", "latex", "parquet"]
FORMATS: tuple[str, ...] = get_args(Format)
NULL = "–"
# Names that DuckDB gives the time zone UTC.
_UTC = {"UTC", "Etc/UTC"}
_DAY_SECONDS = 24 * 60 * 60
_PER_SECOND = {"s": 1, "ms": 1000, "us": 10**6, "ns": 10**9}
# Days since 1970 of Python's first and last date.
_FIRST_DAY, _LAST_DAY = -719162, 2932896
_OUTER_BREAKS = re.compile(r"\A\n+|\n+\Z")
_PLAN = ["explain_key", "explain_value"]


def render(rows: pa.Table, to: str, *, width: int = 120) -> str | bytes:
    """Return the rows in one of `FORMATS`: Parquet as bytes, the others as text that ends in a newline.

    Args and errors as in `write`.
    """
    sink = io.BytesIO()
    write(rows.schema, rows.to_batches(), to, sink, width=width)
    return sink.getvalue() if to == "parquet" else sink.getvalue().decode()


def write(
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    to: str,
    sink: BinaryIO,
    *,
    width: int = 120,
    lines: int = TEXT_ROWS,
) -> int:
    """Write rows in one of `FORMATS`, one batch after the other except in markdown and latex.

    Args:
        schema: of the rows.
        batches: the rows.
        to: the format; `plain` has the columns' names and types, and rows as lists in JSON, for other programs.
        sink: receives the bytes.
        width: characters of a line in format table.
        lines: rows of format table; the other formats have every row.

    Returns:
        The number of rows.

    Raises:
        WarehouseError: there is no such format, or it cannot hold two columns of one name.
    """
    repeated = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if repeated is not None and to in {"json", "parquet"}:
        raise WarehouseError(f"two columns are named {repeated!r}, which {to} cannot hold; give one an alias (as)")
    if to == "parquet":
        return _write_parquet(schema, batches, sink)
    tables = (pa.Table.from_batches([batch], schema) for batch in batches)
    match to:
        case "csv":
            return _write_csv(schema, tables, sink)
        case "json":
            names = schema.names
            objects = ([_dumps(dict(zip(names, row, strict=True))) for row in _rows(table)] for table in tables)
            return _write_list(b"[\n", objects, b",\n", b"\n]\n", b"[]\n", sink)
        case "plain":
            columns = [{"name": field.name, "type": str(field.type)} for field in schema]
            sink.write(f'{{"columns": {_dumps(columns)}, "rows": '.encode())
            lists = (list(map(_dumps, _rows(table))) for table in tables)
            return _write_list(b"[", lists, b",", b"]}", b"[]}", sink)
        case "table":
            shown, count = pa.Table.from_batches([], schema), 0
            for table in tables:
                shown = pa.concat_tables([shown, table.slice(0, lines - shown.num_rows)])
                count += table.num_rows
            sink.write(to_text(shown, width, count=count).encode())
            return count
        case "markdown" | "latex":
            rows = pa.concat_tables([pa.Table.from_batches([], schema), *tables])
            sink.write((_markdown(rows) if to == "markdown" else _latex(rows)).encode())
            return int(rows.num_rows)
    raise WarehouseError(f"there is no format {to!r}; choose one of {', '.join(FORMATS)}")


def _write_parquet(schema: pa.Schema, batches: Iterable[pa.RecordBatch], sink: BinaryIO) -> int:
    count = 0
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            count += batch.num_rows
    return count


def _write_list(
    start: bytes, parts: Iterable[list[str]], separator: bytes, end: bytes, empty: bytes, sink: BinaryIO
) -> int:
    count = 0
    for texts in parts:
        if texts:
            sink.write(separator if count else start)
            sink.write(separator.join(text.encode() for text in texts))
            count += len(texts)
    sink.write(end if count else empty)
    return count


def to_text(rows: pa.Table, width: int, *, count: int | None = None) -> str:
    """Return the rows as a table for a terminal of that width; `count` is the number of all rows, if there are more.

    A single row is shown with one line per column. Otherwise, where not all columns fit, those with one value in all
    rows are named below the table with that value, and so are the names of the last ones that do not fit. The table
    has at most 500 rows, and below it the number of the others.
    """
    count = rows.num_rows if count is None else count
    if rows.column_names == _PLAN:  # DuckDB draws the plan itself
        return escape_control("\n".join([*map(str, rows["explain_value"].to_pylist()), ""]), keep="\n")
    names = [escape_control(name) for name in rows.column_names]
    cells = [[escape_control(cell) for cell in column] for column in _cells(rows.slice(0, TEXT_ROWS))]
    numeric = [is_number(field.type) for field in rows.schema]
    if count == 1:
        return _terminal_table(["column", "value"], [names, [column[0] for column in cells]], [False, False], width)
    columns = list(range(len(names)))
    equal = [i for i in columns if len(set(cells[i])) == 1]
    if len(_fitting(names, cells, columns, width)) == len(columns) or len(equal) == len(columns):
        equal = []
    columns = [i for i in columns if i not in equal]
    fitting = _fitting(names, cells, columns, width)
    text = _terminal_table(
        [names[i] for i in fitting], [cells[i] for i in fitting], [numeric[i] for i in fitting], width
    )
    if equal:
        text += f"in each of these rows: {', '.join(f'{names[i]} {cells[i][0]}' for i in equal)}\n"
    if left := columns[len(fitting) :]:
        text += f"{len(left)} more {'column' if len(left) == 1 else 'columns'}: {', '.join(names[i] for i in left)}\n"
    if more := count - min(rows.num_rows, TEXT_ROWS):
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
        table.add_row(*(Text(cell) for cell in row))  # Text: brackets in a token are not markup
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def _write_csv(schema: pa.Schema, tables: Iterable[pa.Table], sink: BinaryIO) -> int:
    """Write NULL as an empty field, empty text in quotes and a list as JSON."""
    # Arrow quotes every name in the header, and some readers keep the quotes.
    header = io.StringIO()
    csv.writer(header, lineterminator="\n").writerow(schema.names)
    sink.write(header.getvalue().encode())
    count = 0
    for rows in tables:
        flat = pa.Table.from_arrays([_csv_column(column) for column in rows.columns], names=rows.column_names)
        body = io.BytesIO()
        pyarrow.csv.write_csv(flat, body, pyarrow.csv.WriteOptions(include_header=False))
        sink.write(body.getvalue())
        count += rows.num_rows
    return count


def _csv_column(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    if pa.types.is_nested(column.type):
        return pa.array([None if value is None else _dumps(value) for value in _values(column)], pa.string())
    if pa.types.is_binary(column.type) or not _fits_python(column):
        return pa.array([None if value is None else str(_plain(value)) for value in _values(column)], pa.string())
    return column


def _rows(table: pa.Table) -> Iterator[tuple[object, ...]]:
    return zip(*map(_values, table.columns), strict=True)


def _markdown(rows: pa.Table) -> str:
    cells = [[markdown_escaped(cell) for cell in column] for column in _cells(rows)]
    text = tabulate(
        list(zip(*cells, strict=True)),
        headers=[markdown_escaped(name) for name in rows.column_names],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["right" if is_number(field.type) else "left" for field in rows.schema] if rows.num_rows else None,
    )
    return f"{text}\n"


def _latex(rows: pa.Table) -> str:
    letters = "".join("r" if is_number(field.type) else "l" for field in rows.schema)
    columns = [[latex_cell(cell) for cell in column] for column in _cells(rows)]
    body = map(latex.row, zip(*columns, strict=True))
    return "\n".join([*latex.tabular(letters, map(latex_cell, rows.column_names), body), ""])


def latex_cell(text: str) -> str:
    """Escape text for a cell of a LaTeX table."""
    return latex.latex_escaped(escape_control(text, keep="\n\t"))


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
        case Decimal():
            text = str(int(value)) if value == value.to_integral_value() else f"{value:.{digits}g}"
        case list():
            text = ", ".join(shown_cell(item, digits) for item in value)
        case dict():
            text = ", ".join(f"{key}: {shown_cell(item, digits)}" for key, item in value.items())
        case bytes():
            text = value.hex()
        case str():
            # No format shows a line break at an end, which is all of some tokens.
            text = _OUTER_BREAKS.sub(lambda breaks: r"\n" * len(breaks[0]), value)
        case _:
            text = str(value)
    return text


def _values(column: pa.ChunkedArray) -> list[object]:
    """Return Python values; a float32 as the shortest decimal that is read back as the same float32."""
    if pa.types.is_float32(column.type):
        column = column.cast(pa.string()).cast(pa.float64())
    elif pa.types.is_list(column.type):
        import pyarrow.compute as pc  # slow to import

        items = iter(_values(pc.list_flatten(column)))
        lengths = pc.list_value_length(column).to_pylist()
        return [None if length is None else [next(items) for _ in range(length)] for length in lengths]
    elif not _fits_python(column):
        return [None if value is None else _moment(value, column.type) for value in _counts(column).to_pylist()]
    elif pa.types.is_timestamp(column.type) and column.type.tz in _UTC:
        # For a time with a zone Arrow would import pandas.
        plain = column.cast(pa.timestamp(column.type.unit)).to_pylist()
        return [None if value is None else value.replace(tzinfo=UTC) for value in plain]
    return list(column.to_pylist())


def _counts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return dates and times as their numbers of days or of the type's unit."""
    return column.cast(pa.int32() if pa.types.is_date32(column.type) or column.type.bit_width == 32 else pa.int64())


def _fits_python(column: pa.ChunkedArray) -> bool:
    """Return whether Python holds every value: dates of the years 1 to 9999, times to the microsecond below 24:00."""
    of = column.type
    if not pa.types.is_temporal(of) or pa.types.is_interval(of) or pa.types.is_duration(of):
        return True
    # pyarrow.compute would import pandas.
    known = [count for count in _counts(column).to_pylist() if count is not None]
    if not known:
        return True
    first, last = min(known), max(known)
    if pa.types.is_date(of):
        return bool(first >= _FIRST_DAY and last <= _LAST_DAY)
    second = _PER_SECOND[of.unit]
    if pa.types.is_time(of):
        return bool(of.unit != "ns" and last < _DAY_SECONDS * second)
    days = _DAY_SECONDS * second
    return bool(of.unit != "ns" and first >= _FIRST_DAY * days and last < (_LAST_DAY + 1) * days)


def _moment(value: int, of: pa.DataType) -> str:
    """Return the text of any date or time: ISO 8601 with a space, `infinity`, or `24:00:00`; years before 1 as −n."""
    import numpy as np

    if pa.types.is_time(of):
        second = _PER_SECOND[of.unit]
        seconds, rest = divmod(value, second)
        fraction = f"{rest / second:.9f}"[1:].rstrip("0").rstrip(".")
        return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{fraction}"
    limit = (1 << (31 if pa.types.is_date(of) else 63)) - 1
    if abs(value) >= limit:
        return "infinity" if value > 0 else "-infinity"
    unit = "D" if pa.types.is_date(of) else of.unit
    text = str(np.datetime64(value, unit)).replace("T", " ")  # type: ignore[arg-type]
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{text}+00:00" if pa.types.is_timestamp(of) and of.tz is not None else text


def is_number(of: pa.DataType) -> bool:
    """Return whether a column of this type is aligned right."""
    return bool(pa.types.is_integer(of) or pa.types.is_floating(of) or pa.types.is_decimal(of))


def _dumps(value: object) -> str:
    """Return JSON: dates, times, NaN and infinity are texts, bytes are hexadecimal."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def _plain(value: object) -> object:
    plain: object
    match value:
        case None | bool() | int() | str():
            plain = value
        case float():
            plain = value if math.isfinite(value) else {"nan": "NaN", "inf": "Infinity"}.get(str(value), "-Infinity")
        case Decimal():
            plain = int(value) if value == value.to_integral_value() else float(value)
        case list() | tuple():  # a map is a list of pairs
            plain = [_plain(item) for item in value]
        case dict():
            plain = {key: _plain(item) for key, item in value.items()}
        case bytes():
            plain = value.hex()
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
