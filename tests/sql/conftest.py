"""Fixtures that query views of a warehouse written by hand, and warehouses that many tests read."""

from collections.abc import Iterator

import duckdb
import pytest

from prunescope.warehouse.catalogue.materialized import Materialized
from tests.sql import demo
from tests.sql.built_whole import crowded_warehouse, whole_warehouse
from tests.sql.warehouse_builder import Ask, Handmade, Memory, Row, materialized, rows_of


@pytest.fixture(scope="session")
def whole() -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a warehouse in which every view has rows; it must not be changed."""
    with materialized(whole_warehouse().opened()) as connection:
        yield connection


@pytest.fixture(scope="session")
def crowded() -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the same with a second model of equal names; it must not be changed."""
    with materialized(crowded_warehouse().opened()) as connection:
        yield connection


@pytest.fixture(scope="session")
def measured() -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a part of the demo's warehouse; it must not be changed."""
    with materialized(demo.opened()) as connection:
        yield connection


@pytest.fixture(scope="session")
def memory() -> Iterator[Memory]:
    memory = Memory()
    with memory.connection:
        yield memory


@pytest.fixture
def ask(memory: Memory) -> Ask:
    """Return a function that queries the views of a warehouse in memory."""

    def query(warehouse: Handmade, sql: str) -> list[Row]:
        memory.fill(warehouse)
        # Views become tables only for this query: they would keep the rows of this warehouse.
        memory.connection.begin()
        try:
            Materialized(memory.connection).prepare(sql)
            return rows_of(memory.connection, sql)
        finally:
            memory.connection.rollback()

    return query
