"""Which tables a view or a figure's query reads, through all the views between, and a hash of all that SQL.

Derived from the SQL itself, so that nobody keeps a list of dependencies.
"""

import hashlib
from dataclasses import dataclass
from functools import cache

import sqlglot
from sqlglot import exp

from warehouse.catalogue import SQL, View, view_sql
from warehouse.tables import TABLES


@dataclass(frozen=True)
class Reading:
    """What a query stands on.

    Attributes:
        tables: tables of the warehouse, in the order of the data flow.
        sql_hash: SHA-256 over the query, every view below it and the macros.
    """

    tables: tuple[str, ...]
    sql_hash: str


def reading(query: str) -> Reading:
    """Follows a SELECT down to the tables."""
    views, found, rest = _views(), set[str](), _names(query)
    while rest:
        name = rest.pop()
        if name not in found:
            found.add(name)
            rest.extend(views[name].depends_on if name in views else ())
    texts = [query, *(views[name].sql for name in sorted(found) if name in views)]
    texts += [path.read_text(encoding="utf-8") for path in sorted((SQL / "macros").glob("*.sql"))]
    return Reading(
        tables=tuple(name for name in TABLES if name in found),
        sql_hash=hashlib.sha256("\0".join(texts).encode()).hexdigest(),
    )


def questions() -> dict[str, View]:
    """The question views by name."""
    return {name: view for name, view in sorted(_views().items()) if view.layer == "questions"}


@cache
def _views() -> dict[str, View]:
    return view_sql()


def _names(query: str) -> list[str]:
    return [table.name for table in sqlglot.parse_one(query, dialect="duckdb").find_all(exp.Table)]
