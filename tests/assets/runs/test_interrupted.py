"""Killed and interrupted runs: whole partitions stay, no partial one appears, the next run ends as if undisturbed."""

import errno
import fcntl
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from dagster import DagsterRunStatus
from dagster._core.events import RunFailureReason
from dagster._core.execution.retries import auto_reexecution_should_retry_run
from dagster._core.storage import tags

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.assets.definitions import defs
from prunescope.assets.instance.instance import (
    CODE_SERVER_TAG,
    LAUNCHER_TAGS,
    MAX_RETRIES_TAG,
    RETRY_TAG,
    USER_TAG,
    WAREHOUSE_TAG,
    has_lost_two_processes,
    open_instance,
    recover,
    writer_lock,
)
from prunescope.assets.runs.dagster_job import run_tags
from prunescope.warehouse.maintenance.diagnostics import diagnose
from prunescope.warehouse.storage.atomic_write import temporaries
from prunescope.warehouse.storage.partition_store import Store
from tests.assets.tiny_study import RECIPES, Running, StudyFile, partitions, require_same_tables

PATIENCE = 240.0
STARTED, FAILED = DagsterRunStatus.STARTED, DagsterRunStatus.FAILURE


def stop_once_there_is(pattern: str, number: signal.Signals, running: Running, warehouse: Path) -> int | None:
    """Wait for a file of a run and send it the signal; return its exit code."""
    deadline = time.monotonic() + PATIENCE
    while not list(warehouse.glob(pattern)):
        assert running.code(0.01) is None, running.told()
        assert time.monotonic() < deadline
    running.send(number)
    return running.code(PATIENCE)


def require_nothing_left_over(warehouse: Path) -> None:
    assert not diagnose(warehouse)
    assert not list(temporaries(warehouse))
    with open_instance(warehouse) as instance:
        info = instance.event_log_storage.get_concurrency_info("gpu")
        assert (info.claimed_slots, info.pending_steps) == ([], [])
        assert all(record.is_finished for record in instance.get_runs())


def require_as_undisturbed(warehouse: Path, undisturbed: Path) -> None:
    require_same_tables(warehouse, undisturbed)
    require_nothing_left_over(warehouse)


@pytest.mark.timeout(900)
# The next tests interrupt a run and kill runs at random moments, and test_crashes.py kills between any two steps.
@pytest.mark.exhaustive
def test_killed_again_and_again_a_study_ends_in_the_same_pages(
    study: StudyFile, tmp_path: Path, computed_once: Path
) -> None:
    warehouse = tmp_path / "killed"
    for moment in (
        "activation_stats/*/part.parquet",
        "_variants/*/magnitude-50/*.safetensors",
        "layer_transitions/*/recipe=magnitude-50/part.parquet",
    ):
        assert stop_once_there_is(moment, signal.SIGKILL, Running(study, warehouse), warehouse) == -signal.SIGKILL
        assert not [finding for finding in diagnose(warehouse) if finding.level == "error"]
    # In a process of its own as well: the sums of floats depend on the number of threads.
    last = Running(study, warehouse)
    assert last.code(PATIENCE) == 0, last.told()
    require_as_undisturbed(warehouse, computed_once)


@pytest.mark.timeout(3600)
@pytest.mark.exhaustive  # the test above kills at chosen moments
def test_twenty_kills_at_random_moments_change_no_table(study: StudyFile, tmp_path: Path, computed_once: Path) -> None:
    random, started = np.random.default_rng(43), time.monotonic()
    whole = Running(study, tmp_path / "whole")
    assert whole.code(PATIENCE) == 0, whole.told()
    seconds, kills, finished = time.monotonic() - started, 0, 0
    while kills < 20 or not finished:
        warehouse = tmp_path / f"killed-{finished}"
        running = Running(study, warehouse)
        code = running.code(random.uniform(0, seconds) if kills < 20 else PATIENCE)
        if code is None:
            running.send(signal.SIGKILL)
            code = running.code(PATIENCE)
        if code == -signal.SIGKILL:  # else it ended in that moment
            assert not warehouse.exists() or not [each for each in diagnose(warehouse) if each.level == "error"]
            kills += 1
        else:  # the next kills are those of a new warehouse
            assert code == 0, running.told()
            require_as_undisturbed(warehouse, computed_once)
            finished += 1


@pytest.mark.timeout(900)
@pytest.mark.exhaustive  # the test of the lock, below
def test_two_runs_at_once_compute_each_partition_once(study: StudyFile, tmp_path: Path, computed_once: Path) -> None:
    warehouse = tmp_path / "shared"
    runs = [Running(study, warehouse, told=tmp_path / f"{number}.told") for number in range(2)]
    assert [each.code(PATIENCE) for each in runs] == [0, 0], [each.told() for each in runs]
    require_as_undisturbed(warehouse, computed_once)
    for recipe in RECIPES:
        assert sum(f"tiny-a@{recipe}: " in each.told() for each in runs) == 1, recipe


def test_an_interrupt_ends_with_code_130_and_keeps_whole_partitions(study: StudyFile, tmp_path: Path) -> None:
    warehouse = tmp_path / "interrupted"

    def interrupt() -> None:
        while not list(warehouse.glob("_variants/*/dense/*.safetensors")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    study.write(tasks=[], texts=[])
    threading.Thread(target=interrupt, daemon=True).start()
    assert run(["run", str(study.path), "--warehouse", str(warehouse)], Globals()) == 130
    assert partitions(warehouse)
    require_nothing_left_over(warehouse)


@pytest.mark.parametrize("is_own", [True, False], ids=["own history", "shared history"])
def test_dead_runs_are_ended_and_those_of_other_warehouses_only_in_a_history_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_own: bool
) -> None:
    if not is_own:
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    own, other, job = tmp_path / "own", tmp_path / "other", defs.resolve_job_def("study")
    with open_instance(own) as instance, socket.create_server(("127.0.0.1", 0)) as server:
        there = {"host": "127.0.0.1", "port": server.getsockname()[1]}
        gone = {"host": "127.0.0.1", "socket": str(tmp_path / "gone")}
        runs = [
            instance.create_run_for_job(job, status=STARTED, tags=each).run_id
            for each in (
                {CODE_SERVER_TAG: json.dumps(gone)},
                {CODE_SERVER_TAG: json.dumps(there)},
                {},
                {WAREHOUSE_TAG: str(own)},
                {WAREHOUSE_TAG: str(other)},
            )
        ]

        def recovered() -> list[DagsterRunStatus]:
            recover(instance, str(own), own)
            return [instance.get_run_by_id(run).status for run in runs]

        assert recovered() == [FAILED, *[STARTED] * 4]
        with writer_lock(own, print):
            assert recovered() == [FAILED, STARTED, STARTED, FAILED, FAILED if is_own else STARTED]


def test_the_tags_of_launched_and_replaced_runs_are_those_of_dagster() -> None:
    assert (CODE_SERVER_TAG, RETRY_TAG) == (tags.GRPC_INFO_TAG, tags.RETRY_NUMBER_TAG)
    assert (MAX_RETRIES_TAG, USER_TAG) == (tags.MAX_RETRIES_TAG, tags.USER_TAG)
    assert LAUNCHER_TAGS == (tags.USER_TAG, tags.SENSOR_NAME_TAG, tags.SCHEDULE_NAME_TAG)


def test_a_lost_run_is_started_again_and_neither_a_failed_one_nor_one_of_a_command(tmp_path: Path) -> None:
    gone, job = {"host": "127.0.0.1", "socket": str(tmp_path / "gone")}, defs.resolve_job_def("study")
    both = {CODE_SERVER_TAG: json.dumps(gone)}, run_tags("tiny", Store(tmp_path))
    with writer_lock(tmp_path, print), open_instance(tmp_path) as instance:
        runs = [instance.create_run_for_job(job, status=STARTED, tags=each).run_id for each in both]
        recover(instance, str(tmp_path), tmp_path)
        launched, of_command = (instance.get_run_by_id(run) for run in runs)
        assert [run.tags[tags.WILL_RETRY_TAG] for run in (launched, of_command)] == ["true", "false"]
        assert not auto_reexecution_should_retry_run(instance, launched, RunFailureReason.STEP_FAILURE)
        # A user starts the command's run again, with its tags.
        copied = {tag: value for tag, value in of_command.tags.items() if tag not in tags.TAGS_TO_MAYBE_OMIT_ON_RETRY}
        again = instance.create_run_for_job(job, status=FAILED, tags=copied)
        assert auto_reexecution_should_retry_run(instance, again, None)


def test_a_run_is_the_last_attempt_if_two_processes_before_it_were_lost() -> None:
    assert [has_lost_two_processes(each) for each in ({}, {RETRY_TAG: "1"}, {RETRY_TAG: "2"})] == [False, False, True]


@pytest.mark.timeout(60)
def test_one_study_at_a_time_writes_a_warehouse_and_an_interrupt_ends_the_wait(tmp_path: Path) -> None:
    waits, lock = list[str](), tmp_path.resolve() / "_lock"
    with lock.open("w") as other:
        print("process 7", file=other, flush=True)
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(KeyboardInterrupt), writer_lock(tmp_path, lambda _: os.kill(os.getpid(), signal.SIGINT)):
            pass

        def log(message: str) -> None:
            waits.append(message)
            fcntl.flock(other, fcntl.LOCK_UN)

        with writer_lock(tmp_path, log):
            assert lock.read_text().startswith(f"process {os.getpid()} on ")
    assert waits == [f"this warehouse is in use; waiting for process 7, which holds {lock}"]


def test_a_full_disk_keeps_no_lock_from_being_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("prunescope.assets.instance.file_lock.os.write", write)
    with writer_lock(tmp_path, print), (tmp_path / "_lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
