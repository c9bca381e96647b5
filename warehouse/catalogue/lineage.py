"""Tables and columns that a view or a query reads, directly or through views, and a hash of that SQL."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from sqlglot import MappingSchema, exp
from sqlglot.lineage import Node, lineage

from prunescope.warehouse.catalogue.column_docs import PROVENANCE_COLUMNS
from prunescope.warehouse.catalogue.database import PROVENANCE, SQL, view_sql
from prunescope.warehouse.catalogue.materialized import read_by
from prunescope.warehouse.catalogue.view import View
from prunescope.warehouse.tables import TABLES

Origins = Mapping[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True)
class Reading:
    """Dependencies of a query.

    Attributes:
        tables: tables of the warehouse, in the order of the data flow.
        questions: question views, sorted by name.
        sql_hash: SHA-256 over the query, every view that it reads and the macros.
    """

    tables: tuple[str, ...]
    questions: tuple[str, ...]
    sql_hash: str


def reading(query: str) -> Reading:
    """Return what a SELECT reads, down to the tables."""
    views = _views()
    names = stands_on(read_by(query), views)
    texts = [query, *(views[name].sql for name in sorted(names) if name in views)]
    texts += [path.read_text(encoding="utf-8") for path in sorted((SQL / "macros").glob("*.sql"))]
    return Reading(
        tables=tuple(name for name in TABLES if name in names),
        questions=tuple(sorted(names & questions().keys())),
        sql_hash=hashlib.sha256("\0".join(texts).encode()).hexdigest(),
    )


def stands_on(names: Iterable[str], views: Mapping[str, View]) -> set[str]:
    """Return these views and tables, and all that they read, directly or through views."""
    reached, pending = set[str](), list(names)
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            pending.extend(views[name].depends_on if name in views else ())
    return reached


def questions() -> dict[str, View]:
    """Return the question views by name."""
    return {name: view for name, view in sorted(_views().items()) if view.layer == "questions"}


@cache
def origins() -> Mapping[str, Origins]:
    """Return, by table or view and by column, the tables' columns from which its values are computed.

    Columns that only choose rows (`WHERE`, the columns of a join) are not included. Takes half a second.
    """
    views = _views()
    columns = {
        **{name: view.columns for name, view in views.items()},
        **{name: tuple(column.name for column in table.columns) for name, table in TABLES.items()},
        PROVENANCE: tuple(PROVENANCE_COLUMNS),
    }
    schema = MappingSchema({name: dict.fromkeys(names, "") for name, names in columns.items()}, dialect="duckdb")
    known: dict[str, Origins] = {
        name: {column: frozenset({(name, column)}) for column in columns[name]} for name in TABLES
    }
    known[PROVENANCE] = {}
    for name, view in views.items():  # a view comes after those that it reads
        nodes = lineage(None, view.sql, schema, dialect="duckdb", trim_selects=False, copy=False)
        known[name] = {
            column: frozenset().union(*(known[source].get(read, ()) for source, read in _read(node)))
            for column, node in nodes.items()
        }
    return known


def _read(node: Node) -> Iterator[tuple[str, str]]:
    """Yield table or view and column of everything that one column of a query is computed from."""
    for part in node.walk():
        if isinstance(part.source, exp.Table):
            yield part.source.name, part.name.rpartition(".")[2]


_views = cache(view_sql)
