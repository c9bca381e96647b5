"""The worker process beside the runs: its results, cancellation, replacement and end."""

import os
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prunescope.assets import settings
from prunescope.assets.execution.error_transport import WorkerLostError
from prunescope.assets.execution.local import client
from prunescope.assets.execution.local.client import compute_in_worker, stop_worker
from prunescope.assets.execution.task import ModelTask, StepFailed, TableWritten, WantedPartition
from prunescope.assets.instance.instance import writer_lock
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.warehouse.maintenance.diagnostics import diagnose
from tests.assets.tiny_study import StudyFile, rows, workers_of

PATIENCE = 240.0
pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not Path("/proc").exists(), reason="processes are seen as on Linux"),
]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Return a new warehouse, whose worker ends with the test."""
    folder = tmp_path / "warehouse"
    folder.mkdir()
    yield folder
    stop_worker(folder)


def asked(
    step: str, study: StudyFile, root: Path, recipe: str | None = None, progress: Progress = SILENT
) -> list[TableWritten]:
    task = ModelTask(StudyRequest(str(study.path)), str(root), "tiny-a", (WantedPartition(recipe, (step,)),))
    with writer_lock(root, lambda _: None) as lock:
        events = list(compute_in_worker(task, progress, root, lock))
    for event in events:
        if isinstance(event, StepFailed):
            raise event.error
    return [event for event in events if isinstance(event, TableWritten)]


class Kills:
    """A listener that kills the worker when its first task starts."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def start(self, task: str, total: int, tokens: int = 0) -> None:
        os.kill(self._pid, signal.SIGKILL)

    def advance(self, amount: int = 1) -> None: ...

    def done(self) -> None: ...


def test_a_worker_writes_what_a_run_writes_and_is_replaced_when_killed(
    study: StudyFile, root: Path, computed_once: Path
) -> None:
    reports = asked("models", study, root) + asked("calibration", study, root)
    assert [report.table for report in reports] == ["models", "activation_stats", "block_influence"]
    found, wanted = rows(root), rows(computed_once)
    assert len(found) == len(reports)
    assert all(found[name].equals(wanted[name]) for name in found)
    (worker,) = workers_of(root)
    with pytest.raises(WorkerLostError, match=r"during tiny-a calibration; see .*_worker\.log"):
        asked("calibration", study, root, progress=Kills(worker))
    # The worker may have replaced a table by its equal before it died; it leaves no other file, and none half-written.
    assert {path.name for path in root.rglob("*.parquet")} == {"part.parquet"}
    after = rows(root)
    assert after.keys() == found.keys()
    assert all(after[name].equals(found[name]) for name in found)
    assert not [finding for finding in diagnose(root) if finding.level == "error"]
    assert [report.is_skipped for report in asked("speed", study, root, "dense")] == [True]
    assert len(workers_of(root)) == 1
    assert workers_of(root) != {worker}


class Cancels(Kills):
    """A listener that interrupts its own process, as Dagster does to a canceled run, when the first task starts."""

    def start(self, task: str, total: int, tokens: int = 0) -> None:
        raise KeyboardInterrupt


@pytest.mark.exhaustive  # test_interrupted.py interrupts the command
def test_an_interrupted_task_ends_its_worker_and_leaves_whole_partitions(study: StudyFile, root: Path) -> None:
    asked("models", study, root)
    (worker,) = workers_of(root)
    before = {path: path.stat().st_ino for path in root.rglob("*.parquet")}
    with pytest.raises(KeyboardInterrupt):
        asked("calibration", study, root, progress=Cancels(worker))
    assert not workers_of(root)
    # The worker may have written a table before it saw the end.
    assert before.items() <= {path: path.stat().st_ino for path in root.rglob("*.parquet")}.items()
    assert not [finding for finding in diagnose(root) if finding.level == "error"]


def test_a_worker_keeps_error_types_and_ends_when_idle_or_its_environment_changes(
    study: StudyFile, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="nonsense") as caught:
        asked("speed", study, root, "nonsense")
    assert "in compute" in str(caught.value.__cause__), "its own traceback is the cause"
    first = workers_of(root)
    assert asked("speed", study, root, "dense")
    assert workers_of(root) == first
    monkeypatch.setenv("PRUNESCOPE_WORKER_IDLE", "0.2")
    assert asked("speed", study, root, "dense")
    assert not first & workers_of(root)
    deadline = time.monotonic() + PATIENCE
    while workers_of(root):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not client._socket_path(root).exists()


@pytest.fixture
def short() -> Iterator[Path]:
    """Return a folder whose path is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def test_sockets_are_in_a_folder_that_only_the_user_can_open(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    folder = settings.sockets_folder()
    assert folder.parent == short
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o755)
    with pytest.raises(InputError, match="only you can open"):
        settings.sockets_folder()
    # A socket's name may not be longer than some hundred bytes.
    long = short / ("long" * 20)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    assert settings.sockets_folder().parent != long


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "soon"])
def test_an_idle_time_is_a_number_of_seconds(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNESCOPE_WORKER_IDLE", given)
    with pytest.raises(InputError, match="PRUNESCOPE_WORKER_IDLE"):
        settings.worker_idle_seconds()
