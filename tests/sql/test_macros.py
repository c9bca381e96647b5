"""The statistics that the questions share, against scipy and at their edges."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pytest
from scipy import stats

from prunescope.warehouse.catalogue import database
from tests.sql.resampling import RESAMPLES, draws


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    root: Path = tmp_path_factory.mktemp("empty")
    with database.connect(root) as opened:
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
        # The only differing x has no partner, so the pairs do not vary.
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
def test_the_logarithm_of_a_non_positive_number_is_null(
    number: object, expected: float | None, connection: duckdb.DuckDBPyConnection
) -> None:
    assert value(connection, f"log10_positive({number})") == expected


def tied(seed: int, size: int = 40) -> np.ndarray:
    """Generate numbers of which many are equal, huge or tiny."""
    chance = np.random.default_rng(seed)
    return chance.choice([0.0, 1e-30, 0.1, 0.1, 0.5, 2.0, 1e30], size)


@pytest.mark.parametrize("seed", range(3))
def test_smaller_values_are_counted_and_summed_with_ties_as_half(
    seed: int, connection: duckdb.DuckDBPyConnection
) -> None:
    x, group = tied(seed), np.arange(40) % 3
    amount = np.arange(40) - 20
    rows = ", ".join(f"({row})" for row in (f"{i}, {group[i]}, {x[i]!s}::double, {amount[i]}" for i in range(40)))
    query = f"""
        select count_below(x, g), sum_below(a, x, g) from (values {rows}) as data (i, g, x, a) order by i
    """
    expected = []
    for at in range(40):
        below = (group == group[at]) & (x < x[at])
        equal = (group == group[at]) & (x == x[at])
        expected.append((below.sum() + equal.sum() / 2, amount[below].sum() + amount[equal].sum() / 2))

    assert connection.execute(query).fetchall() == expected


@pytest.mark.parametrize("seed", range(3))
def test_a_correlation_of_sums_over_ranks_is_scipys_spearman(seed: int, connection: duckdb.DuckDBPyConnection) -> None:
    x, y = tied(seed), tied(seed + 10)
    ranks = [stats.rankdata(values).astype(float) for values in (x, y)]
    sums = [40, ranks[0].sum(), ranks[1].sum(), *(float(a @ b) for a, b in ((ranks[0],) * 2, (ranks[1],) * 2, ranks))]

    found = value(connection, f"correlation_of_sums({', '.join(f'{each}::double' for each in sums)})")
    assert found == pytest.approx(stats.spearmanr(x, y).statistic)


@pytest.mark.parametrize("sums", ["4, 4, 8, 4, 20, 8", "4, 8, 4, 20, 4, 8", "0, 0, 0, 0, 0, 0", "null, 1, 1, 1, 1, 1"])
def test_constant_or_missing_values_have_no_correlation(sums: str, connection: duckdb.DuckDBPyConnection) -> None:
    assert value(connection, f"correlation_of_sums({sums})") is None


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4]),
        ([1, 2, 3, 4], [9, 5, 1, -7]),
        ([1, 1, 2, 2, 3], [4, 5, 5, 4, 4]),
        ([1e-30, 0, 1e30], [2, 2, 3]),
        (list(tied(0)), list(tied(1))),
    ],
)
def test_kendalls_tau_discounts_ties_as_scipy_does(
    x: Sequence[float], y: Sequence[float], connection: duckdb.DuckDBPyConnection
) -> None:
    found = connection.execute("select kendall_tau_b($x::double[], $y::double[])", {"x": x, "y": y}).fetchone()[0]

    assert found == pytest.approx(stats.kendalltau(x, y).statistic)


@pytest.mark.parametrize("lists", ["[1, 1], [1, 2]", "[1], [1]", "[1, 2, null], [1, 2, 3]", "[1, 2], [null, 2]"])
def test_kendalls_tau_is_null_without_a_pair_that_varies_and_with_an_unknown_value(
    lists: str, connection: duckdb.DuckDBPyConnection
) -> None:
    assert value(connection, f"kendall_tau_b({lists})") is None


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("(2, 0), (8, 0), (null, 0)", 4.0),
        ("(1e-200, 0), (1e200, 0)", 1.0),
        ("(2, 0), (0, 0)", 0.0),
        ("(2, 0), (-2, 0)", None),
        ("(null, 0)", None),
    ],
)
def test_a_geometric_mean_is_zero_at_a_zero_and_null_below_it(
    rows: str, expected: float | None, connection: duckdb.DuckDBPyConnection
) -> None:
    found = value(connection, "geometric_mean_of(x::double)", rows)

    assert found == (expected if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (0, 10), (3, 10), (10, 10), (1, 10**9), (10**9, 10**9)])
def test_wilsons_interval_is_scipys(successes: int, trials: int, connection: duckdb.DuckDBPyConnection) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")

    assert value(connection, f"wilson_interval({successes}, {trials})") == pytest.approx(list(expected), abs=1e-15)


@pytest.mark.parametrize("trials", ["0", "null"])
def test_no_trial_has_no_interval(trials: str, connection: duckdb.DuckDBPyConnection) -> None:
    assert value(connection, f"wilson_interval(0, {trials})") is None


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 0), (3, 9), (9, 3), (5, 5), (0, 60), (2000, 2100)])
def test_mcnemars_exact_test_is_scipys_binomial(one: int, other: int, connection: duckdb.DuckDBPyConnection) -> None:
    expected = stats.binomtest(one, one + other).pvalue

    assert value(connection, f"mcnemar_exact({one}, {other})") == pytest.approx(expected, rel=1e-9)


def test_no_discordant_pair_has_no_test(connection: duckdb.DuckDBPyConnection) -> None:
    assert value(connection, "mcnemar_exact(0, 0)") is None


@pytest.mark.parametrize("units", [1, 5, 12])
def test_bootstrap_weights_count_fixed_draws(units: int, connection: duckdb.DuckDBPyConnection) -> None:
    weights = np.array(value(connection, f"bootstrap_weights({units})"))
    expected = [np.bincount(drawn, minlength=units) for drawn in draws(units)]

    assert weights.shape == (RESAMPLES, units)
    assert (weights == expected).all()


def test_the_draws_are_uniform_and_independent() -> None:
    drawn = draws(12)

    assert stats.chisquare(np.bincount(drawn.ravel(), minlength=12)).pvalue > 0.01
    assert stats.chi2_contingency(np.histogram2d(drawn[:, 0], drawn[:, 1], bins=4)[0]).pvalue > 0.01


@pytest.mark.parametrize(
    ("figures", "units", "expected"),
    [
        ([0.0, 1.0, 2.0, 3.0, 4.0], 5, [0.1, 3.9]),
        ([0.0, 1.0, None, 2.0, 3.0, 4.0], 5, [0.1, 3.9]),
        ([0.0, 1.0], 4, None),
        ([0.5, 0.5], 12, None),
        ([None, None], 12, None),
    ],
)
def test_an_interval_needs_five_units_and_resamples_that_differ(
    figures: list[float | None], units: int, expected: list[float] | None, connection: duckdb.DuckDBPyConnection
) -> None:
    rows = ", ".join(f"({'null' if figure is None else figure}, 0)" for figure in figures)
    found = value(connection, f"bootstrap_interval(x::double, {units})", rows)

    assert found == (expected if expected is None else pytest.approx(expected))


def test_a_resample_without_a_count_has_no_share(connection: duckdb.DuckDBPyConnection) -> None:
    shares = "resampled_share([2.0, 0.0], [3.0, 4.0], [1.0, 2.0]), resampled_share([1.0, 0.0], [3.0, 4.0], [0.0, 2.0])"

    assert connection.execute(f"select {shares}").fetchone() == (3.0, None)


def test_the_auc_of_the_resample_that_draws_everything_once_is_that_of_all(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    # One unit with a positive above one of its negatives and below that of the other unit, which has no positive.
    lists = "[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]"

    assert value(connection, f"resampled_auc([1.0, 1.0], {lists}, 0.5)") == 0.5
    assert value(connection, f"resampled_auc([0.0, 2.0], {lists}, 0.5)") is None


@pytest.mark.parametrize(("x", "expected"), [(-0.1, 0.0), (1.5, 1.0), (0.25, 0.25), ("null", None)])
def test_a_share_stays_within_its_bounds_and_unknown_stays_unknown(
    x: object, expected: float | None, connection: duckdb.DuckDBPyConnection
) -> None:
    assert value(connection, f"within_0_and_1({x}::double)") == expected
