"""A way to ask a view of a warehouse written by hand for its rows."""

from pathlib import Path

import pytest

from tests.sql.handmade import Ask, Handmade, Row, rows_of


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Writes a warehouse and gives the rows of a query over its views."""

    def query(warehouse: Handmade, sql: str) -> list[Row]:
        with warehouse.connect(tmp_path / "warehouse") as connection:
            return rows_of(connection, sql)

    return query
