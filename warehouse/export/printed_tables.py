"""Files of a view: exact as Parquet and CSV, typeset as LaTeX, Markdown and HTML."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import duckdb
import pyarrow as pa
import sqlglot

from prunescope.pipelines.core.quoting import quoted
from prunescope.warehouse.catalogue.column_docs import explain
from prunescope.warehouse.catalogue.database import view_sql
from prunescope.warehouse.catalogue.view import View
from prunescope.warehouse.core.formats import render
from prunescope.warehouse.export.html_table import to_html
from prunescope.warehouse.export.latex_table import to_latex
from prunescope.warehouse.export.paper_tables import PAPER_TABLES
from prunescope.warehouse.export.table_cells import RenderedTable, printed, to_markdown
from prunescope.warehouse.export.table_spec import derived
from prunescope.warehouse.tables import TABLES

# Longer tables are not typeset.
TYPESET_ROWS = 1000
_UNITS = {column.name: column.unit for table in TABLES.values() for column in table.columns}


@dataclass(frozen=True)
class TableFiles:
    """Files of one view.

    Attributes:
        contents: bytes by file name; empty if the view has no row.
        rows: the rows in the files.
        caption: of the typeset files.
        rows_of_view: number of rows of the view, of which `rows` are the first.
        preview: the table for the export's page; None if the view is not typeset.
    """

    contents: Mapping[str, bytes]
    rows: pa.Table
    caption: str
    rows_of_view: int
    preview: RenderedTable | None = None


def table_files(connection: duckdb.DuckDBPyConnection, view: View, limit: int | None) -> TableFiles:
    """Render at most `limit` rows of a view (None: all) in every format, typeset only up to 1,000 rows.

    Rows have the view's order, else that of its key.
    """
    query = f"SELECT * FROM {quoted(view.name)}"  # noqa: S608 - our own name
    if sqlglot.parse_one(view.sql, dialect="duckdb").args.get("order") is None and view.key:
        query += f" ORDER BY {', '.join(map(quoted, view.key))}"
    rows = connection.sql(query if limit is None else f"{query} LIMIT {limit + 1}").to_arrow_table()
    count = rows.num_rows
    if limit is not None and count > limit:
        [(count,)] = connection.execute(f"SELECT count(*) FROM {quoted(view.name)}").fetchall()  # noqa: S608
        rows = rows.slice(0, limit)
    units = {name: doc.unit or _UNITS.get(name, "") for name, doc in _documented()[view.name].items()}
    layout = PAPER_TABLES.get(view.name) or derived(view.parts, rows.schema, units)
    if not count:
        return TableFiles({}, rows, layout.caption, count)
    preview = None
    contents = {f"{view.name}.{to}": render(rows, to) for to in ("parquet", "csv")}
    if rows.num_rows <= TYPESET_ROWS:
        preview = table = printed(view.name, rows, layout, view.key)
        contents |= {
            f"{view.name}.tex": to_latex(table),
            f"{view.name}.md": to_markdown(table),
            f"{view.name}.html": to_html(table),
        }
    encoded = {name: text.encode() if isinstance(text, str) else text for name, text in contents.items()}
    return TableFiles(encoded, rows, layout.caption, count, preview)


_documented = cache(lambda: explain(view_sql().values()))
