"""A way to ask a view of a warehouse written by hand for its rows, and warehouses that many tests read."""

from collections.abc import Iterator

import duckdb
import pytest

from tests.sql import demo
from tests.sql.built_whole import crowded_warehouse, whole_warehouse
from tests.sql.warehouse_builder import Ask, Handmade, Memory, Row, rows_of


@pytest.fixture(scope="session")
def whole() -> Iterator[duckdb.DuckDBPyConnection]:
    """A warehouse in which every view has rows; not to be changed."""
    with whole_warehouse().opened() as connection:
        yield connection


@pytest.fixture(scope="session")
def crowded() -> Iterator[duckdb.DuckDBPyConnection]:
    """The same with a second model of equal names beside it; not to be changed."""
    with crowded_warehouse().opened() as connection:
        yield connection


@pytest.fixture(scope="session")
def measured() -> Iterator[duckdb.DuckDBPyConnection]:
    """A part of the demo's warehouse; not to be changed."""
    with demo.opened() as connection:
        yield connection


@pytest.fixture(scope="session")
def _memory() -> Iterator[Memory]:
    memory = Memory()
    with memory.connection:
        yield memory


@pytest.fixture
def ask(_memory: Memory) -> Ask:
    """Give the rows of a query over the views of a warehouse, which lies in memory."""

    def query(warehouse: Handmade, sql: str) -> list[Row]:
        _memory.fill(warehouse)
        return rows_of(_memory.connection, sql)

    return query
