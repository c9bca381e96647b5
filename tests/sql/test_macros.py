"""The statistics that the questions share, against scipy and at their edges."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pytest
from scipy import stats

from prunescope.warehouse.catalogue import database
from tests.sql import reference_intervals
from tests.sql.reference_intervals import Interval


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    root: Path = tmp_path_factory.mktemp("empty")
    with database.connect(root) as opened:
        yield opened


def value(connection: duckdb.DuckDBPyConnection, expression: str, rows: str = "(0, 0)") -> object:
    return connection.execute(f"select {expression} from (values {rows}) as data (x, y)").fetchone()[0]


def pairs(template: str, count: int = 10) -> str:
    """Return so many rows, each with its number in the place of `i`."""
    return ", ".join(f"({template.replace('i', str(index))})" for index in range(count))


# A macro, the rows that it reads, and what it gives at the ends of its scale and for what is not known.
EDGES = [
    ("correlation(y, x)", pairs("i, -i"), -1.0),
    ("correlation(y, x)", pairs("i, -i", count=9), None),
    ("correlation(y, x)", pairs("0.1::double, i"), None),
    ("correlation(y, x)", pairs("i, 0.1::double"), None),
    ("correlation(y, x)", pairs("i, null"), None),
    # The only differing x has no partner, so the pairs do not vary.
    ("correlation(y, x)", pairs("1, i") + ", (2, null)", None),
    *((f"correlation_of_sums({sums})", "(0, 0)", None) for sums in ("4, 4, 8, 4, 20, 8", "4, 8, 4, 20, 4, 8")),
    *((f"correlation_of_sums({sums})", "(0, 0)", None) for sums in ("0, 0, 0, 0, 0, 0", "null, 1, 1, 1, 1, 1")),
    # Without a pair that varies, and with an unknown value.
    *((f"kendall_tau_b({lists})", "(0, 0)", None) for lists in ("[1, 1], [1, 2]", "[1], [1]")),
    *((f"kendall_tau_b({lists})", "(0, 0)", None) for lists in ("[1, 2, null], [1, 2, 3]", "[1, 2], [null, 2]")),
    ("log10_positive(100.0)", "(0, 0)", 2.0),
    *((f"log10_positive({number})", "(0, 0)", None) for number in (0.0, -1.0, "null")),
    ("geometric_mean_of(x::double)", "(2, 0), (8, 0), (null, 0)", 4.0),
    ("geometric_mean_of(x::double)", "(1e-200, 0), (1e200, 0)", 1.0),
    ("geometric_mean_of(x::double)", "(2, 0), (0, 0)", 0.0),
    ("geometric_mean_of(x::double)", "(2, 0), (-2, 0)", None),
    ("geometric_mean_of(x::double)", "(null, 0)", None),
    ("wilson_interval(0, 0)", "(0, 0)", None),
    ("wilson_interval(0, null)", "(0, 0)", None),
    ("mcnemar_exact(0, 0)", "(0, 0)", None),
    ("t_quantile_975(0)", "(0, 0)", None),
    *((f"within_0_and_1({x}::double)", "(0, 0)", within) for x, within in ((-0.1, 0.0), (1.5, 1.0), (0.25, 0.25))),
    ("within_0_and_1(null::double)", "(0, 0)", None),
]


@pytest.mark.parametrize(("expression", "rows", "expected"), EDGES)
def test_a_statistic_ends_with_its_scale_and_is_null_without_what_it_needs(
    expression: str, rows: str, expected: float | None, connection: duckdb.DuckDBPyConnection
) -> None:
    assert value(connection, expression, rows) == (expected if expected is None else pytest.approx(expected))


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


@pytest.mark.parametrize(
    ("successes", "trials"), [(0, 2), (0, 10), (3, 10), (10, 10), (2, 10**9), (10**9, 10**9), (2.5, 7.5)]
)
def test_wilsons_interval_is_scipys(successes: float, trials: float, connection: duckdb.DuckDBPyConnection) -> None:
    expected = reference_intervals.wilson(successes, trials)
    if isinstance(successes, int):
        scipys = stats.binomtest(successes, int(trials)).proportion_ci(method="wilson")
        assert expected == pytest.approx(tuple(scipys), rel=1e-4, abs=1e-12)
    found = value(connection, f"wilson_interval({successes}, {trials})")

    assert found == pytest.approx(list(expected), rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("trials", [2, 5, 1000])
def test_the_end_at_one_success_is_poissons_exact_one(trials: int, connection: duckdb.DuckDBPyConnection) -> None:
    # With 0.05/n at stake the chance to see a success is 5 %.
    low = value(connection, f"wilson_interval(1, {trials})[1]")
    high = value(connection, f"wilson_interval({trials - 1}, {trials})[2]")

    assert low == pytest.approx(-math.log(0.95) / trials)
    assert high == pytest.approx(1 - low)


def test_students_quantile_is_scipys_from_one_degree_of_freedom_on(connection: duckdb.DuckDBPyConnection) -> None:
    rows = connection.execute("select df, t_quantile_975(df) from range(1, 400) as one(df)").fetchall()

    assert [found for _, found in rows] == pytest.approx([stats.t.ppf(0.975, df) for df, _ in rows], rel=5e-4)


@pytest.mark.parametrize(("t", "df"), [(-3.0, 4), (0.0, 4), (0.7, 5), (2.5, 8), (1.0, 60), (40.0, 200)])
def test_the_distribution_of_t_is_scipys(t: float, df: int, connection: duckdb.DuckDBPyConnection) -> None:
    assert value(connection, f"t_probability({t}, {df})") == pytest.approx(stats.t.cdf(t, df), abs=0.01)


def test_an_interval_of_a_paired_change_agrees_with_the_exact_test(connection: duckdb.DuckDBPyConnection) -> None:
    rows = connection.execute(
        """
        select lost, gained, pairs, interval_of_paired_change(lost, gained, pairs) as ends
        from range(26) as one(lost), range(26) as other(gained), (values (1), (2), (7), (25), (2000)) as sizes(pairs)
        where lost + gained <= pairs
        """
    ).fetchall()
    assert len(rows) > 800
    for lost, gained, _, (low, high) in rows:
        is_rejected = lost + gained > 0 and stats.binomtest(lost, lost + gained).pvalue < 0.05
        assert is_rejected == (not low <= 0 <= high), (lost, gained)
    for lost, gained, pairs, ends in rows[::37]:
        assert ends == pytest.approx(reference_intervals.of_paired_change(lost, gained, pairs), rel=1e-4, abs=1e-9)


# Estimate and interval of either side, and the correlation of their errors.
PAIRS = [
    (0.6, (0.45, 0.72), 0.7, (0.55, 0.81), 0.5),
    # No success, with and without a bound on the divisor that is far below twice it.
    (0.0, (0.0, 0.66), 1.0, (0.34, 1.0), 0.0),
    (0.05, (0.01, 0.24), 0.1, (0.03, 0.3), 0.2),
    # Worse than a guess.
    (-0.2, (-0.24, -0.03), 0.4, (0.2, 0.55), -0.3),
    (-0.05, (-0.2, 0.3), 0.4, (0.2, 0.55), 0.4),
]


@pytest.mark.parametrize(("a", "of_a", "b", "of_b", "correlation"), PAIRS)
def test_differences_and_ratios_have_the_ends_that_solve_their_equations(
    a: float, of_a: Interval, b: float, of_b: Interval, correlation: float, connection: duckdb.DuckDBPyConnection
) -> None:
    given = ", ".join(f"({x})::double" for x in (a, *of_a, b, *of_b, correlation))
    ratio = reference_intervals.of_ratio(a, of_a, b, of_b, correlation)
    difference = reference_intervals.of_difference(a, of_a, b, of_b, correlation)

    assert value(connection, f"interval_of_ratio({given})") == pytest.approx(list(ratio), abs=1e-9)
    assert value(connection, f"interval_of_difference({given})") == pytest.approx(list(difference))


def test_a_ratio_to_what_may_be_zero_has_no_upper_end(connection: duckdb.DuckDBPyConnection) -> None:
    low, high = value(connection, "interval_of_ratio(0.5, 0.2, 0.8, 0.1, -0.05, 0.3, 0.0)")

    assert (low > 0, high) == (True, None)


@pytest.mark.parametrize(
    ("shares", "sizes", "effective"),
    [
        # Spread between clusters as a binomial draw would have it, and more than that.
        ([3, 5, 2, 6], [8, 8, 8, 8], None),
        ([0, 8, 1, 7, 6], [8, 8, 8, 8, 9], None),
        # Too few clusters with a success or a failure to know.
        ([0, 0, 5, 1, 2, 0], [8] * 6, 6),
        ([0, 0], [3, 1], 1.6),
        ([4], [4], 1),
    ],
)
def test_a_share_over_clusters_has_wilsons_interval_of_its_effective_trials(
    shares: list[int], sizes: list[int], effective: float | None, connection: duckdb.DuckDBPyConnection
) -> None:
    expected = reference_intervals.over_clusters(shares, sizes)
    if effective:
        assert expected == reference_intervals.wilson(sum(shares) / sum(sizes) * effective, effective)
    rows = ", ".join(f"({own}, {size})" for own, size in zip(shares, sizes, strict=True))
    found = value(connection, "wilson_interval_over_clusters(x, y)", rows)

    assert found == pytest.approx(list(expected), rel=1e-3, abs=1e-9)


def test_a_mean_over_clusters_has_the_same_half_width_from_totals(connection: duckdb.DuckDBPyConnection) -> None:
    rows = "(1.0, 2), (5.5, 3), (2.0, 1), (-4.0, 6)"
    totals = "half_width_over_clusters((x - y * 4.5 / 12) / 12)"

    assert value(connection, "half_width_of_mean(x, y)", rows) == pytest.approx(value(connection, totals, rows))
    assert value(connection, "half_width_of_mean(x, y)", "(0.1, 1), (0.2, 2), (0.3, 3)") is None


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 0), (3, 9), (9, 3), (5, 5), (0, 60), (2000, 2100)])
def test_mcnemars_exact_test_is_scipys_binomial(one: int, other: int, connection: duckdb.DuckDBPyConnection) -> None:
    expected = stats.binomtest(one, one + other).pvalue

    assert value(connection, f"mcnemar_exact({one}, {other})") == pytest.approx(expected, rel=1e-9)


def test_the_place_of_a_medians_interval_is_the_last_that_the_sign_test_rejects(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    for n in (0, 1, 5, 6, 7, 9, 20, 23, 24, 41, 100, 173, 500, 1001):
        places = [k for k in range(1, n + 1) if 2 * stats.binom.cdf(k - 1, n, 0.5) <= 0.05]
        assert value(connection, f"place_of_median_low({n})") == (max(places) if places else None), n


def test_the_declared_evidence_is_the_first_in_order_with_enough_units(connection: duckdb.DuckDBPyConnection) -> None:
    def chosen(*rows: tuple[str, int], loss: float = 0.3) -> str:
        connection.execute("create or replace temp table found (evidence text, n int)")
        connection.executemany("insert into found values (?, ?)", rows)
        query = f"select declared_evidence(evidence, {loss}, {loss} - 0.2, {loss} + 0.2, null, null, n) from found"
        return connection.execute(query).fetchall()[0][0]["evidence"]

    for loss in (0.0, 0.3, 0.9):
        assert chosen(("options", 40), ("agreement", 40), ("score", 40), ("graded", 99), loss=loss) == "score"
    assert chosen(("options", 40), ("agreement", 40), ("graded", 30), ("score", 29)) == "graded"
    assert chosen(("options", 29), ("score", 29)) == "score"
    # The variants behind a prediction are of other models, so that fewer do; it goes after all that was measured.
    assert chosen(("prediction", 5), ("options", 40)) == "options"
    assert chosen(("prediction", 5), ("options", 29)) == "prediction"


@pytest.mark.parametrize(
    ("share", "error", "trials", "expected"),
    [
        # The error of 9 of 20 independent answers.
        (0.45, math.sqrt(0.45 * 0.55 / 20), 5, reference_intervals.wilson(9, 20)),
        (0.0, 0.1, 20, reference_intervals.wilson(0, 20)),
        (1.0, 0.1, 20, reference_intervals.wilson(20, 20)),
        (0.3, 0.0, 20, (0.3, 0.3)),
        (1.0, 0.0, 20, (1.0, 1.0)),
    ],
)
def test_a_share_of_known_error_has_wilsons_interval_of_as_many_trials(
    connection: duckdb.DuckDBPyConnection, share: float, error: float, trials: int, expected: Interval
) -> None:
    ends = value(connection, f"wilson_interval_of_error({share}::double, {error!r}::double, {trials})")

    assert ends == pytest.approx(expected)
    assert value(connection, f"wilson_interval_of_error({share}::double, null, {trials})") is None


def test_scores_of_several_data_sets_have_students_interval_of_the_fewest_queries(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    half = value(connection, "half_width_of_scores(x::double, y)", "(0.03, 12), (0.04, 50)")

    assert half == pytest.approx(stats.t.ppf(0.975, 11) * 0.05 / 2, rel=1e-3)
    assert value(connection, "half_width_of_scores(x::double, y)", "(0.03, 12), (null, 50)") is None
