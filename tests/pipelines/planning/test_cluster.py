"""Tests of the simulated run of many workers, against closed forms where they exist."""

import pytest

from prunescope.pipelines.planning.cluster import ANSWERS, BOOKKEEPING, WRITING, StageTimes, simulate

PACE = StageTimes(
    load=8,
    model=4,
    dense=2,
    variant=10,
    model_bookkeeping=1,
    variant_bookkeeping=0.5,
    planning=0.25,
    writing=0.125,
    answers=5,
)


def test_one_worker_takes_the_sum_of_everything() -> None:
    run = simulate(PACE, models=3, variants=4, workers=1)
    models, variants = 3 * (8 + 4 + 2), 12 * 10
    assert run.computing == models + variants
    assert run.repeated == 0
    assert run.seconds == 12 * 0.25 + models + variants + 3 * 1 + 12 * (0.5 + 0.125) + 5


def test_with_a_worker_per_model_no_model_is_loaded_twice() -> None:
    run = simulate(StageTimes(load=8, model=4, dense=2, variant=10), models=6, variants=5, workers=6)
    assert run.repeated == 0
    assert run.seconds == 8 + 4 + 2 + 5 * 10


def test_a_worker_that_helps_loads_the_model_again() -> None:
    run = simulate(StageTimes(load=8, model=4, dense=2, variant=10), models=1, variants=4, workers=2)
    assert run.repeated == 8 + 2
    # The first goes on at 14 with three variants until 44, the other one loads until 24.
    assert run.seconds == 44


@pytest.mark.parametrize(
    ("serial", "name", "each"),
    [("variant_bookkeeping", BOOKKEEPING, 2.0), ("writing", WRITING, 2.0), ("answers", ANSWERS, 800)],
)
def test_serial_work_bounds_the_run_from_the_stated_number_of_workers(serial: str, name: str, each: float) -> None:
    pace = StageTimes(load=0, model=0, dense=0, variant=20, **{serial: each})
    limit, at = simulate(pace, models=40, variants=10, workers=1).first_limit
    assert (limit, at) == (name, pytest.approx(10))
    total = each if serial == "answers" else 400 * each
    few, many = (simulate(pace, models=40, variants=10, workers=workers).seconds for workers in (2, 40))
    assert few > 4 * total, "computing takes longest"
    assert total < many <= total + 400 * 20 / 40 + 40 + each, "only that is waited for"


def test_every_table_is_computed_by_exactly_one_worker() -> None:
    run = simulate(PACE, models=7, variants=3, workers=5)
    assert run.computing - run.repeated == 7 * (8 + 4 + 2) + 21 * 10
    assert run.repeated % (8 + 2) == 0
    assert run.seconds >= (run.computing / 5) + run.serial[ANSWERS]
