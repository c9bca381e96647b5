"""Views as files: exact as Parquet and CSV, typeset as LaTeX, Markdown and HTML.

Which views, and where the files go, is the caller's business.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import sqlglot

from prunescope.warehouse.catalogue import view_header
from prunescope.warehouse.catalogue.database import View
from prunescope.warehouse.core.formats import render
from prunescope.warehouse.core.limits import MOST_ROWS
from prunescope.warehouse.core.quoting import quoted
from prunescope.warehouse.export.html_table import to_html
from prunescope.warehouse.export.latex_table import to_latex
from prunescope.warehouse.export.paper_tables import PAPER_TABLES
from prunescope.warehouse.export.table_cells import printed, to_markdown
from prunescope.warehouse.export.table_spec import derived
from prunescope.warehouse.tables import TABLES

# No one typesets more; Parquet and CSV have the others too.
TYPESET_ROWS = 1000
_UNIT = re.compile(r"\[([^\]]+)\]")
_UNITS = {column.name: column.unit for table in TABLES.values() for column in table.columns}


@dataclass(frozen=True)
class TableFiles:
    """One view as files.

    Attributes:
        contents: bytes by file name; none where the view has no row.
        rows: what they hold.
        caption: of the typeset ones.
        rows_of_view: how many rows the view has, of which `rows` are the first.
    """

    contents: Mapping[str, bytes]
    rows: pa.Table
    caption: str
    rows_of_view: int


def table_files(connection: duckdb.DuckDBPyConnection, view: View, most: int | None = MOST_ROWS) -> TableFiles:
    """Asks a view and renders its rows in every format; typeset ones only up to 1,000 rows.

    Rows come in the view's order, else by its key.

    Args:
        connection: an open catalogue.
        view: one of its views.
        most: rows that are written; all where None.
    """
    query = f"SELECT * FROM {quoted(view.name)}"  # noqa: S608 - the name of a file
    key = view_header.parse(view.header).key
    if sqlglot.parse_one(view.sql, dialect="duckdb").args.get("order") is None and key:
        query += f" ORDER BY {', '.join(map(quoted, key))}"
    rows = connection.sql(query if most is None else f"{query} LIMIT {most + 1}").to_arrow_table()
    count = rows.num_rows
    if most is not None and count > most:
        [(count,)] = connection.execute(f"SELECT count(*) FROM {quoted(view.name)}").fetchall()  # noqa: S608
        rows = rows.slice(0, most)
    layout = PAPER_TABLES.get(view.name) or derived(view.header, rows.schema, _units(connection, view.name))
    if not count:
        return TableFiles({}, rows, layout.caption, count)
    contents = {
        f"{view.name}.parquet": _bytes(render(rows, "parquet")),
        f"{view.name}.csv": _bytes(render(rows, "csv")),
    }
    if rows.num_rows <= TYPESET_ROWS:
        table = printed(view.name, rows, layout, key)
        contents |= {
            f"{view.name}.tex": to_latex(table).encode(),
            f"{view.name}.md": to_markdown(table).encode(),
            f"{view.name}.html": to_html(table).encode(),
        }
    return TableFiles(contents, rows, layout.caption, count)


def stands_on(names: Iterable[str], views: Mapping[str, View]) -> set[str]:
    """These views and tables, and all that they read, through all the views between."""
    found, rest = set[str](), list(names)
    while rest:
        name = rest.pop()
        if name not in found:
            found.add(name)
            rest.extend(views[name].depends_on if name in views else ())
    return found


def reads(names: Iterable[str], views: Mapping[str, View]) -> tuple[str, ...]:
    """The tables that some views and tables stand on."""
    found = stands_on(names, views)
    return tuple(name for name in TABLES if name in found)


def _bytes(rendered: str | bytes) -> bytes:
    return rendered if isinstance(rendered, bytes) else rendered.encode()


def _units(connection: duckdb.DuckDBPyConnection, name: str) -> dict[str, str]:
    """Unit by column: as its comment tells, else of the table's column of that name."""
    query = "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = ?"
    units = {}
    for column, comment in connection.execute(query, [name]).fetchall():
        found = _UNIT.search(comment or "")
        units[column] = found[1] if found else _UNITS.get(column, "")
    return units
