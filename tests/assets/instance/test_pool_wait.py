"""The wait of a step for a slot in Dagster's pool."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance, ExecuteInProcessResult, job, op

from prunescope.assets.instance import pool_wait
from prunescope.assets.instance.instance import WAREHOUSE_TAG, open_instance
from prunescope.assets.instance.pool_wait import watch_pool_waits


@op(pool="gpu")
def step() -> None:
    """Needs the pool."""


@job
def stepping() -> None:
    """One step in the pool."""
    step()


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    """An instance whose one slot is held by another run."""
    monkeypatch.setattr(pool_wait, "MESSAGE_SECONDS", 0.0)
    with open_instance(tmp_path) as instance:
        other = instance.create_run_for_job(stepping, tags={WAREHOUSE_TAG: "/elsewhere"})
        instance.event_log_storage.initialize_concurrency_limit_to_default("gpu")
        assert instance.event_log_storage.claim_concurrency_slot("gpu", other.run_id, "step").is_claimed
        yield instance


def free(instance: DagsterInstance, *, besides: str) -> None:
    for run in instance.get_runs():
        if run.run_id != besides:
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def execute(instance: DagsterInstance) -> ExecuteInProcessResult:
    return stepping.execute_in_process(instance=instance, raise_on_error=False)


@pytest.mark.timeout(60)
def test_a_wait_names_the_run_that_holds_the_slot_once_and_ends_when_that_is_dead(instance: DagsterInstance) -> None:
    notes, looks = [], []

    def recover(running: str) -> None:
        looks.append(running)
        if len(looks) > 1:
            free(instance, besides=running)

    (other,) = instance.get_runs()
    with watch_pool_waits(instance, notes.append, recover):
        result = execute(instance)
    assert result.success
    assert set(looks) == {result.run_id}
    assert len(notes) == 1
    assert other.run_id[:8] in notes[0]
    assert "/elsewhere" in notes[0]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait(instance: DagsterInstance, number: signal.Signals) -> None:
    looks = []

    def recover(running: str) -> None:
        looks.append(running)
        if len(looks) == 10:  # without the signal the run succeeds, because a timeout of the test would look the same
            free(instance, besides=running)

    with watch_pool_waits(instance, lambda _: os.kill(os.getpid(), number), recover):
        result = execute(instance)
    assert not result.success
    assert len(looks) < 10


@pytest.mark.timeout(60)
def test_a_wait_leaves_the_processor_alone(instance: DagsterInstance) -> None:
    spent: list[float] = []

    def recover(running: str) -> None:
        spent.append(time.process_time())
        if len(spent) == 4:
            free(instance, besides=running)

    with watch_pool_waits(instance, lambda _: None, recover):
        assert execute(instance).success
    assert spent[-1] - spent[0] < 1
