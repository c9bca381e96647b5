"""Views of an open catalogue as tables of its own, each computed when a query first reads it.

A query over views of views is planned as one whole: planned alone, thirty questions cost ten times what they compute.
"""

import duckdb
import sqlglot
from sqlglot import exp

from prunescope.warehouse.catalogue import view_header
from prunescope.warehouse.catalogue.database import View, view_sql
from prunescope.warehouse.core.quoting import quoted

# A view whose key has one of these has a row for everything that was measured: it is read from the files.
_MEASURED = {"position", "step", "sample_id"}


class Materialized:
    """The views of a catalogue that sum up, as tables of one connection.

    They show what the files held when each was first read, which is what a connection shows in any case.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Keep the connection; nothing is computed yet.

        Args:
            connection: an open catalogue, some views of which may be tables already.
        """
        self._connection = connection
        self._views = view_sql()
        self._failed: dict[str, duckdb.Error] = {}
        self._ready = {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}

    def prepare(self, query: str) -> None:
        """Compute what a SELECT reads.

        Raises:
            duckdb.Error: a view fails; it stays a view, and fails the next time without being computed again.
        """
        for name in sorted(read_by(query)):
            self._compute(name)

    def _compute(self, name: str) -> None:
        view = self._views.get(name)
        if view is None or name in self._ready:
            return
        if name in self._failed:
            raise self._failed[name].with_traceback(None)
        try:
            for below in view.depends_on:
                self._compute(below)
            if _sums_up(view):
                own, table, kept = (quoted(each) for each in (name, f"{name} table", f"{name} view"))
                self._connection.execute(f"CREATE TABLE {table} AS FROM {own}")
                self._connection.execute(f"ALTER VIEW {own} RENAME TO {kept}")
                self._connection.execute(f"ALTER TABLE {table} RENAME TO {own}")
        except duckdb.Error as error:
            self._failed[name] = error
            raise
        self._ready.add(name)


def read_by(query: str) -> set[str]:
    """Return the names that stand for a table, a view or a part of its own in a SELECT."""
    return {table.name for table in sqlglot.parse_one(query, dialect="duckdb").find_all(exp.Table)}


def _sums_up(view: View) -> bool:
    return view.layer != "staging" and not _MEASURED & set(view_header.parse(view.header).key)
