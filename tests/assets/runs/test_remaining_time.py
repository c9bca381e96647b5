"""The remaining time of a run, with a clock that the tests set."""

import pytest

from prunescope.assets.runs.remaining_time import RemainingTime, Stage


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def of(*stages: Stage) -> tuple[RemainingTime, Clock]:
    clock = Clock()
    return RemainingTime(stages, clock), clock


A = Stage("m", "calibration", 10.0, 1.0)
B, C = Stage("m@a", "traces", 40.0, 1.0), Stage("m@b", "traces", 20.0, 1.0)


def test_a_run_is_predicted_from_its_start() -> None:
    left, clock = of(A, B)
    assert left.seconds() == (10 + 1) + (40 + 1)
    left.begin("m", "calibration")
    clock.now = 2.0
    assert left.seconds() == (10 + 1 - 2) + (40 + 1)


def test_the_finished_stages_of_a_step_give_the_pace_of_its_others() -> None:
    left, clock = of(A, B, C)
    left.begin("m", "calibration")
    clock.now = 91.0
    left.begin("m@a", "traces")  # calibration took nine times its cost, which says nothing of traces
    assert left.seconds() == (1 + 40) + (1 + 20)
    clock.now += 121.0
    left.begin("m@b", "traces")  # traces take three times their cost, beside 20 s as predicted
    clock.now += 11.0
    assert left.seconds() == pytest.approx(1 + 20 * (120 + 20) / (40 + 20) - 11)
    assert left.seconds(100.0) == pytest.approx(100.0), "the task's own bar is slower than predicted"
    clock.now += 1000.0
    assert left.seconds() == 0.0, "a late stage is not negative"
    assert (left.done, left.elapsed) == (2, clock.now)


def test_partitions_that_fail_or_come_from_a_cluster_take_their_stages_with_them() -> None:
    left, clock = of(A, B, C, Stage("m@b", "texts", 5.0))
    left.begin("m", "calibration")
    clock.now = 11.0
    left.begin("m@b", "variants")  # not among the stages, as when it is repeated
    left.drop("m@b")
    assert (left.done, left.seconds()) == (3, pytest.approx(1 + 40))
    left.drop("m@a")
    assert left.seconds() == 0.0


def test_fixed_times_need_no_pace() -> None:
    left, clock = of(Stage("answers", "answers", 0.0, 20.0))
    left.begin("answers", "answers")
    clock.now = 5.0
    assert left.seconds() == 15.0


def test_a_stage_in_which_the_process_was_stopped_counts_as_three_times_the_usual_pace() -> None:
    stages = [Stage(f"m@{n}", "variants", 10.0, 1.0) for n in range(4)]
    left, clock = of(*stages, B)
    for number, seconds in enumerate((11.0, 601.0, 16.0)):  # paces 1, 60 and 1.5
        left.begin(f"m@{number}", "variants")
        clock.now += seconds
    left.begin("m@3", "variants")
    pace = (10 + 3 * 15 + 15 + 20) / (30 + 20)
    assert left.seconds() == pytest.approx((1 + 40) + (1 + 10 * pace))


def test_a_stage_without_cost_and_a_failed_one_say_nothing_of_the_others() -> None:
    left, clock = of(
        Stage("m", "models", 0.0), B, C, Stage("m search", "search", 10.0, 1.0), Stage("n", "texts", 5.0, 1.0)
    )
    left.begin("m", "models")
    clock.now = 120.0
    left.begin("m@a", "traces")
    clock.now += 200.0
    left.fail("m@a")
    assert left.seconds() == (1 + 20) + (1 + 10) + (1 + 5)
    left.fail("m")
    assert left.seconds() == 1 + 5
