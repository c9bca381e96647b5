"""Coverage of the intervals of the SQL macros over simulated studies with a known truth."""

import pytest

from tests.benchmarks.coverage import Cell, Simulation

STUDIES = 2000


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return list(Simulation(STUDIES, sizes=(20,)).cells())


# Where few outcomes are possible no interval covers exactly 95 %; these are the cells with many.
FINE = {
    ("share", 20, 0.5),
    ("share of tokens by prompt, correlated 0.2", 20, 0.02),
    ("share of tokens by prompt, correlated 0.2", 20, 0.5),
    ("paired change", 20, "lost 0.3, gained 0.3"),
    ("kept score of a task", 20, "0.9 to 0.5"),
    ("kept score of a task", 20, "0.5 to 0.5"),
    ("mean (t)", 20, "normal"),
    ("mean of positive values (t of logarithm)", 20, "lognormal 0.5"),
    ("direction of all variants", 20, "6 variants"),
    ("rank correlation over variants", 20, 0.5),
    ("median first flip", 20, "hazard 0.05, 1000 steps"),
    ("median first flip", 20, "hazard 0.05, 16 steps"),
}


def test_intervals_cover_the_truth_in_93_to_98_percent_of_studies(cells: list[Cell]) -> None:
    fine = [cell for cell in cells if cell[:3] in FINE]

    assert len(fine) == len(FINE)
    # Two standard errors of the simulation are 0.01.
    assert [cell for cell in fine if not 0.92 <= cell.coverage <= 0.99] == []


def test_no_interval_covers_much_less_where_outcomes_are_few_or_skewed(cells: list[Cell]) -> None:
    assert [cell for cell in cells if cell.coverage < 0.88] == []
    # Without a deviation there is no half-width; without a right dense answer there is no loss.
    assert {cell.method for cell in cells if cell.known < 1} <= {"kept score of a task"}


def test_intervals_of_twenty_answers_say_something(cells: list[Cell]) -> None:
    widths = {cell[:3]: cell.width for cell in cells}

    assert widths["share", 20, 0.0] < 0.17
    assert widths["share", 20, 0.5] < 0.4
    assert widths["paired change", 20, "lost 0.1, gained 0.02"] < 0.4
    assert widths["share of tokens by prompt, independent", 20, 0.5] < 0.1
