"""A way to ask a view of a warehouse written by hand for its rows, and warehouses that many tests read."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from tests.sql import demo
from tests.sql.handmade import Ask, Handmade, Row, rows_of
from tests.sql.handmade_whole import crowded_warehouse, whole_warehouse


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """A warehouse in which every view has rows; not to be changed."""
    with whole_warehouse().connect(tmp_path_factory.mktemp("whole")) as connection:
        yield connection


@pytest.fixture(scope="session")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """The same with a second model of equal names beside it; not to be changed."""
    with crowded_warehouse().connect(tmp_path_factory.mktemp("crowded")) as connection:
        yield connection


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """A part of the demo's warehouse; not to be changed."""
    with demo.connect(tmp_path_factory.mktemp("demo")) as connection:
        yield connection


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Writes a warehouse and gives the rows of a query over its views."""

    def query(warehouse: Handmade, sql: str) -> list[Row]:
        with warehouse.connect(tmp_path / "warehouse") as connection:
            return rows_of(connection, sql)

    return query
