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


@pytest.mark.parametrize("freedom", [4, 5, 7, 11, 30, 1000])
def test_students_quantile_is_that_of_scipy(freedom: int, connection: duckdb.DuckDBPyConnection) -> None:
    assert value(connection, f"t_quantile_975({freedom})") == pytest.approx(stats.t.ppf(0.975, freedom), rel=4e-4)


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


@pytest.mark.parametrize("influences", [[0.1, -0.1, 0.2, -0.2], [0.0] * 8])
def test_no_interval_without_five_prompts_or_without_any_deviation(
    influences: list[float], connection: duckdb.DuckDBPyConnection
) -> None:
    rows = ", ".join(f"({influence}, 0)" for influence in influences)

    assert value(connection, "half_width_over_prompts(x)", rows) is None


def test_the_interval_over_prompts_is_students(connection: duckdb.DuckDBPyConnection) -> None:
    rows = ", ".join(f"({influence}, 0)" for influence in (0.1, -0.1, 0.2, -0.2, 0.0))
    expected = stats.t.ppf(0.975, 4) * (5 / 4 * 0.1) ** 0.5

    assert value(connection, "half_width_over_prompts(x)", rows) == pytest.approx(expected, rel=4e-4)
