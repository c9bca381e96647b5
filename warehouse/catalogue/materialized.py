"""Views of an open catalogue as tables, each computed when a query first reads it.

DuckDB plans a query over views of views as a whole. For thirty questions, planning takes ten times as long
as execution.
"""

import duckdb
import sqlglot
from sqlglot import exp

from prunescope.pipelines.core.quoting import quoted
from prunescope.warehouse.catalogue.database import view_sql

# A view with one of these in its key has a row per measurement and is read from the files.
_MEASURED = {"position", "step", "sample_id"}


class Materialized:
    """Views of a catalogue as tables of one connection: all but staging views and those with a row per measurement.

    They read the same files as the connection.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._views = view_sql()
        self._ready = {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}

    def prepare(self, query: str) -> None:
        """Compute the views that a SELECT reads.

        Raises:
            duckdb.Error: a view fails; it stays a view.
        """
        for name in sorted(read_by(query)):
            self._compute(name)

    def _compute(self, name: str) -> None:
        view = self._views.get(name)
        if view is None or name in self._ready:
            return
        for below in view.depends_on:
            self._compute(below)
        if view.layer != "staging" and not _MEASURED & set(view.key):
            own, table, renamed = (quoted(text) for text in (name, f"{name} table", f"{name} view"))
            self._connection.execute(f"CREATE TABLE {table} AS FROM {own}")
            self._connection.execute(f"ALTER VIEW {own} RENAME TO {renamed}")
            self._connection.execute(f"ALTER TABLE {table} RENAME TO {own}")
        self._ready.add(name)


def read_by(query: str) -> set[str]:
    """Return the names of tables, views and CTEs that a SELECT reads."""
    return {table.name for table in sqlglot.parse_one(query, dialect="duckdb").find_all(exp.Table)}
