"""Which tables and columns a view or a figure's query reads, through all the views between, and a hash of that SQL.

Derived from the SQL itself, so that nobody keeps a list of dependencies.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from sqlglot import MappingSchema, exp
from sqlglot.lineage import Node, lineage

from prunescope.warehouse.catalogue.column_docs import PROVENANCE_COLUMNS
from prunescope.warehouse.catalogue.database import PROVENANCE, SQL, View, view_sql
from prunescope.warehouse.catalogue.materialized import read_by
from prunescope.warehouse.tables import TABLES

Origins = Mapping[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True)
class Reading:
    """What a query stands on.

    Attributes:
        tables: tables of the warehouse, in the order of the data flow.
        questions: question views, by name.
        sql_hash: SHA-256 over the query, every view below it and the macros.
    """

    tables: tuple[str, ...]
    questions: tuple[str, ...]
    sql_hash: str


def reading(query: str) -> Reading:
    """Follows a SELECT down to the tables."""
    views, found, rest = _views(), set[str](), list(read_by(query))
    while rest:
        name = rest.pop()
        if name not in found:
            found.add(name)
            rest.extend(views[name].depends_on if name in views else ())
    texts = [query, *(views[name].sql for name in sorted(found) if name in views)]
    texts += [path.read_text(encoding="utf-8") for path in sorted((SQL / "macros").glob("*.sql"))]
    return Reading(
        tables=tuple(name for name in TABLES if name in found),
        questions=tuple(sorted(found & questions().keys())),
        sql_hash=hashlib.sha256("\0".join(texts).encode()).hexdigest(),
    )


def questions() -> dict[str, View]:
    """The question views by name."""
    return {name: view for name, view in sorted(_views().items()) if view.layer == "questions"}


@cache
def origins() -> Mapping[str, Origins]:
    """By table and view and by column, the tables' columns that its values are computed from.

    What only chooses rows (`WHERE`, the columns of a join) is not among them. It takes half a second.
    """
    views = _views()
    columns = {
        **{name: view.columns for name, view in views.items()},
        **{name: tuple(column.name for column in table.columns) for name, table in TABLES.items()},
        PROVENANCE: tuple(PROVENANCE_COLUMNS),
    }
    schema = MappingSchema({name: dict.fromkeys(found, "") for name, found in columns.items()}, dialect="duckdb")
    known: dict[str, Origins] = {
        name: {column: frozenset({(name, column)}) for column in columns[name]} for name in TABLES
    }
    known[PROVENANCE] = {}
    for name, view in views.items():  # each comes after those that it reads
        nodes = lineage(None, view.sql, schema, dialect="duckdb", trim_selects=False, copy=False)
        known[name] = {
            column: frozenset().union(*(known[source].get(read, ()) for source, read in _read(node)))
            for column, node in nodes.items()
        }
    return known


def _read(node: Node) -> Iterator[tuple[str, str]]:
    """The columns of tables and views that one column of a query is computed from."""
    seen, rest = set[int](), [node]
    while rest:
        found = rest.pop()
        if id(found) not in seen:
            seen.add(id(found))
            rest.extend(found.downstream)
            if isinstance(found.source, exp.Table):
                yield found.source.name, found.name.rpartition(".")[2]


@cache
def _views() -> dict[str, View]:
    return view_sql()
