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


def test_nothing_is_said_before_the_speed_of_the_machine_shows() -> None:
    left, clock = of(A, B)
    left.begin("m", "calibration")
    clock.now = 2.0
    assert left.seconds(0.05, 1.0) is None, "too little of the task is done"
    # 7 s to come of 9 in all for a cost of 10, with 20 s for a cost of 20; a second of overhead each.
    pace = (9 + 20) / (10 + 20)
    assert left.seconds(0.125, 1.0) == pytest.approx((10 * pace + 1 - 2) + (40 * pace + 1))


def test_the_finished_stages_give_the_pace_of_the_others_and_their_own_step_first() -> None:
    left, clock = of(A, B, C)
    left.begin("m", "calibration")
    clock.now = 21.0
    left.begin("m@a", "traces")  # calibration took twice its cost, besides one second
    pace = (20 + 20) / (10 + 20)
    assert left.seconds() == pytest.approx((1 + pace * 40) + (1 + pace * 20))
    clock.now += 121.0
    left.begin("m@b", "traces")  # traces take three times their cost, beside 20 s at the pace of all
    clock.now += 11.0
    pace = (120 + 20 * (20 + 120 + 20) / (10 + 40 + 20)) / (40 + 20)
    assert left.seconds() == pytest.approx(1 + pace * 20 - 11)
    assert left.seconds(0.5, 100.0) == pytest.approx(100.0), "the task's own bar is slower than predicted"
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
    seconds = 10 + 3 * 15 + 15
    pace = (seconds + 20) / (30 + 20)
    assert left.seconds() == pytest.approx((1 + 40 * pace) + (1 + 10 * (seconds + 20 * pace) / (30 + 20)))
    idle, clock = of(*stages, B)
    for number, seconds in enumerate((0.5, 1.0, 21.0)):  # two took no longer than their overhead
        idle.begin(f"m@{number}", "variants")
        clock.now += seconds
    idle.end()
    pace = (20 + 20) / (30 + 20)
    assert idle.seconds() == pytest.approx((1 + 40 * pace) + (1 + 10 * (20 + 20 * pace) / (30 + 20)))


def test_a_step_that_is_slower_than_the_others_keeps_its_pace() -> None:
    stages = [Stage(f"m@{n}", "variants", 10.0, 0.0) for n in range(4)]
    left, clock = of(*stages, Stage("m@0", "traces", 20.0, 0.0), Stage("m@1", "traces", 40.0, 0.0))
    for number in range(4):
        left.begin(f"m@{number}", "variants")
        clock.now += 10.0
    left.begin("m@0", "traces")
    clock.now += 200.0
    left.end()
    pace = (40 + 200 + 20) / (40 + 20 + 20)
    assert left.seconds() == pytest.approx(40 * (200 + 20 * pace) / (20 + 20))


def test_a_stage_without_cost_a_short_one_and_a_failed_one_say_nothing_of_the_others() -> None:
    load, short = Stage("m", "models", 0.0), Stage("m@short", "traces", 0.01, 1.0)
    left, clock = of(load, short, B, C, Stage("m search", "search", 10.0, 1.0), Stage("n", "calibration", 5.0, 1.0))
    left.begin("m", "models")
    clock.now = 120.0
    left.begin("m@short", "traces")  # it also waits for the model
    clock.now += 4.5
    left.begin("m@a", "traces")
    # 3.5 s at a cost of 0.01, beside 20 s.
    pace = (3.5 + 20) / 20.01
    of_traces = (3.5 + 20 * pace) / 20.01
    others = (1 + 10 * pace) + (1 + 5 * pace)
    assert left.seconds() == pytest.approx((1 + 40 * of_traces) + (1 + 20 * of_traces) + others)
    clock.now += 2.0
    left.fail("m@a")
    assert left.seconds() == pytest.approx((1 + 20 * of_traces) + others)
    left.fail("m")
    assert left.seconds() == pytest.approx(1 + 5 * pace)
