"""The statistics that the questions share, against scipy and at their edges."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from scipy import stats

from warehouse import catalogue


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    root: Path = tmp_path_factory.mktemp("empty")
    with catalogue.connect(root) as opened:
        yield opened


def value(connection: duckdb.DuckDBPyConnection, expression: str, rows: str = "(0, 0)") -> object:
    return connection.execute(f"select {expression} from (values {rows}) as data (x, y)").fetchone()[0]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (", ".join(f"({index}, {-index})" for index in range(10)), -1.0),
        (", ".join(f"({index}, {-index})" for index in range(9)), None),
        (", ".join(f"(0.1::double, {index})" for index in range(10)), None),
        (", ".join(f"({index}, 0.1::double)" for index in range(10)), None),
        (", ".join(f"({index}, null)" for index in range(10)), None),
        # The one x that differs has no partner, so the pairs do not vary.
        (", ".join(f"(1, {index})" for index in range(10)) + ", (2, null)", None),
    ],
)
def test_a_correlation_needs_ten_pairs_and_two_sides_that_vary(
    rows: str, expected: float | None, connection: duckdb.DuckDBPyConnection
) -> None:
    found = value(connection, "correlation(y, x)", rows)

    assert found == (expected if expected is None else pytest.approx(expected))


def test_midranks_of_ties_share_their_mean(connection: duckdb.DuckDBPyConnection) -> None:
    rows = "values ('a', 3.0), ('a', 1.0), ('a', 3.0), ('a', 3.0), ('b', 9.0)"
    query = f"select g, x, midrank(x, row(g)) from ({rows}) as data (g, x) order by all"

    assert connection.execute(query).fetchall() == [
        ("a", 1, 1.0),
        ("a", 3, 3.0),
        ("a", 3, 3.0),
        ("a", 3, 3.0),
        ("b", 9, 1.0),
    ]


@pytest.mark.parametrize(("number", "expected"), [(100.0, 2.0), (0.0, None), (-1.0, None), ("null", None)])
def test_the_logarithm_of_what_is_not_positive_is_null(
    number: object, expected: float | None, connection: duckdb.DuckDBPyConnection
) -> None:
    assert value(connection, f"log10_positive({number})") == expected
