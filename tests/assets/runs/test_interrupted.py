"""Killed and interrupted runs: whole partitions stay, no partial one appears, the next run ends as if undisturbed."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from dagster import DagsterRunStatus
from dagster._core.events import RunFailureReason
from dagster._core.execution.retries import auto_reexecution_should_retry_run
from dagster._core.storage import tags

from prunescope.assets.instance.instance import (
    CODE_SERVER_TAG,
    MAX_RETRIES_TAG,
    RETRY_TAG,
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
from tests.assets.tiny_study import RECIPES, Command, Running, StudyFile, pages, partitions, rows

PATIENCE = 240.0
STARTED = DagsterRunStatus.STARTED


def stop_once_there_is(pattern: str, number: signal.Signals, running: Running, warehouse: Path) -> int | None:
    """Wait for a file of a run and send it the signal; return its exit code."""
    deadline = time.monotonic() + PATIENCE
    while not list(warehouse.glob(pattern)):
        assert running.code(0.01) is None, running.told()
        assert time.monotonic() < deadline
    running.send(number)
    return running.code(PATIENCE)


def nothing_is_left_running(warehouse: Path) -> bool:
    with open_instance(warehouse) as instance:
        info = instance.event_log_storage.get_concurrency_info("gpu")
        unfinished = [record for record in instance.get_runs() if not record.is_finished]
        return not unfinished and not info.claimed_slots and not info.pending_steps


STATISTICS = "activation_stats/*/part.parquet"
MASKS = "_variants/*/magnitude-50/*.safetensors"
TRACES = "layer_transitions/*/recipe=magnitude-50/part.parquet"


@pytest.mark.timeout(900)
# The next test stops a run by a signal, and test_crashes.py kills writers between any two steps.
@pytest.mark.exhaustive
@pytest.mark.parametrize("moments", [(MASKS,), (STATISTICS, MASKS, TRACES)])
def test_killed_again_and_again_a_study_ends_in_the_same_pages(
    study: StudyFile, tmp_path: Path, computed_once: Path, moments: tuple[str, ...]
) -> None:
    warehouse = tmp_path / "killed"
    for moment in moments:
        assert stop_once_there_is(moment, signal.SIGKILL, Running(study, warehouse), warehouse) == -signal.SIGKILL
        assert not [finding for finding in diagnose(warehouse) if finding.level == "error"]
    # In a process of its own as well: the sums of floats depend on the number of threads.
    last = Running(study, warehouse)
    assert last.code(PATIENCE) == 0, last.told()
    require_as_undisturbed(warehouse, computed_once)


def require_as_undisturbed(warehouse: Path, undisturbed: Path) -> None:
    wanted, found = rows(undisturbed), rows(warehouse)
    # What was published comes with the answers.
    assert found.keys() == {name for name in wanted if not name.startswith("paper_reference/")}
    for name, table in found.items():
        assert wanted[name].equals(table), name
        if not name.startswith("variants/"):  # the one table with timings
            assert pages(warehouse / name) == pages(undisturbed / name), name
    assert not diagnose(warehouse)
    assert not list(temporaries(warehouse))
    assert nothing_is_left_running(warehouse)


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
@pytest.mark.exhaustive  # the tests of the lock, below
def test_two_runs_at_once_compute_each_partition_once(study: StudyFile, tmp_path: Path, computed_once: Path) -> None:
    warehouse = tmp_path / "shared"
    runs = [Running(study, warehouse, told=tmp_path / f"{number}.told") for number in range(2)]
    assert [each.code(PATIENCE) for each in runs] == [0, 0], [each.told() for each in runs]
    require_as_undisturbed(warehouse, computed_once)
    for recipe in RECIPES:
        assert sum(f"tiny-a@{recipe}: " in each.told() for each in runs) == 1, recipe


@pytest.mark.timeout(600)
def test_an_interrupt_ends_with_code_130_and_keeps_whole_partitions(study: StudyFile, tmp_path: Path) -> None:
    warehouse = tmp_path / "interrupted"
    study.write(tasks=[], texts=[])
    running = Command(study, warehouse)
    assert stop_once_there_is("_variants/*/dense/*.safetensors", signal.SIGINT, running, warehouse) == 130
    assert not diagnose(warehouse)
    assert partitions(warehouse)
    assert not list(warehouse.rglob(".tmp-*"))
    assert nothing_is_left_running(warehouse)


@pytest.mark.parametrize("is_own", [True, False])
@pytest.mark.parametrize("is_locked", [True, False])
def test_dead_runs_are_ended_and_those_of_other_warehouses_only_in_a_history_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_own: bool, is_locked: bool
) -> None:
    if not is_own:
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    own, other = tmp_path / "own", tmp_path / "other"
    lock = writer_lock(own, lambda _: None) if is_locked else nullcontext()
    with open_instance(own) as instance, lock, socket.create_server(("127.0.0.1", 0)) as server:
        there = {"host": "127.0.0.1", "port": server.getsockname()[1]}
        gone = {"host": "127.0.0.1", "socket": str(tmp_path / "gone")}
        runs = [
            instance.create_run_for_job(_job(), status=STARTED, tags=tags)
            for tags in (
                {WAREHOUSE_TAG: str(own)},
                {WAREHOUSE_TAG: str(other)},
                {},
                {CODE_SERVER_TAG: json.dumps(there)},
                {CODE_SERVER_TAG: json.dumps(gone)},
            )
        ]
        recover(instance, str(own), own)
        statuses = [instance.get_run_by_id(run.run_id).status for run in runs]
    ended = DagsterRunStatus.FAILURE
    of_commands = [ended, ended if is_own else STARTED] if is_locked else [STARTED, STARTED]
    assert statuses == [*of_commands, STARTED, STARTED, ended]


def test_the_tags_of_launched_and_replaced_runs_are_those_of_dagster() -> None:
    assert (CODE_SERVER_TAG, RETRY_TAG) == (tags.GRPC_INFO_TAG, tags.RETRY_NUMBER_TAG)
    assert MAX_RETRIES_TAG == tags.MAX_RETRIES_TAG


def test_a_lost_run_is_started_again_and_neither_a_failed_one_nor_one_of_a_command(tmp_path: Path) -> None:
    gone = {CODE_SERVER_TAG: json.dumps({"host": "127.0.0.1", "socket": str(tmp_path / "gone")})}
    with writer_lock(tmp_path, lambda _: None), open_instance(tmp_path) as instance:
        launched, of_command = (
            instance.create_run_for_job(_job(), status=STARTED, tags=own)
            for own in (gone, run_tags("tiny", Store(tmp_path)))
        )
        recover(instance, str(tmp_path), tmp_path)
        runs = [instance.get_run_by_id(run.run_id) for run in (launched, of_command)]
        assert [run.tags[tags.WILL_RETRY_TAG] for run in runs] == ["true", "false"]
        assert not auto_reexecution_should_retry_run(instance, runs[0], RunFailureReason.STEP_FAILURE)
        # A user starts the command's run again, with its tags.
        copied = {tag: value for tag, value in runs[1].tags.items() if tag not in tags.TAGS_TO_MAYBE_OMIT_ON_RETRY}
        again = instance.create_run_for_job(_job(), status=DagsterRunStatus.FAILURE, tags=copied)
        assert auto_reexecution_should_retry_run(instance, again, None)


def test_a_run_is_the_last_attempt_if_two_processes_before_it_were_lost() -> None:
    assert [has_lost_two_processes(tags) for tags in ({}, {RETRY_TAG: "1"}, {RETRY_TAG: "2"})] == [False, False, True]


def _job() -> object:
    from prunescope.assets.definitions import defs

    return defs.resolve_job_def("answers")


_HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("process 7", file=file, flush=True)
print(flush=True)
time.sleep(2)
"""


def test_one_study_at_a_time_writes_a_warehouse(tmp_path: Path) -> None:
    waits: list[str] = []
    lock = tmp_path.resolve() / "_lock"
    other = subprocess.Popen([sys.executable, "-c", _HOLDER, lock], stdout=subprocess.PIPE)
    other.stdout.readline()
    with writer_lock(tmp_path, waits.append):
        assert other.wait() == 0
        assert lock.read_text().startswith(f"process {os.getpid()} on ")
    other.stdout.close()
    assert waits == [f"this warehouse is in use; waiting for process 7, which holds {lock}"]


@pytest.mark.timeout(60)
def test_an_interrupt_ends_the_wait_for_the_lock(tmp_path: Path) -> None:
    with (tmp_path / "_lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with (
            pytest.raises(KeyboardInterrupt),
            writer_lock(tmp_path, lambda _: os.kill(os.getpid(), signal.SIGINT)),
        ):
            pass


def test_a_full_disk_keeps_no_lock_from_being_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("prunescope.assets.instance.file_lock.os.write", write)
    with writer_lock(tmp_path, lambda _: None), (tmp_path / "_lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
