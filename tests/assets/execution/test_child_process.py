"""The child process that computes for a run: its results, its errors, cancellation, and its end."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from prunescope.assets.execution.child_process import ChildProcess
from prunescope.assets.execution.error_transport import WorkerLostError
from prunescope.assets.execution.task import ModelTask, StepFailed, TableWritten
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.warehouse.maintenance.diagnostics import diagnose
from tests.assets.tiny_study import ROOT, StudyFile, children, rows

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def child() -> Iterator[ChildProcess]:
    """Return a child process that ends with the test."""
    started = ChildProcess()
    yield started
    started.end()


def asked(
    child: ChildProcess,
    step: str,
    study: StudyFile,
    root: Path,
    recipe: str | None = None,
    progress: Progress = SILENT,
) -> list[TableWritten]:
    task = ModelTask(StudyRequest(str(study.path)), str(root), "tiny-a", ((recipe, step),))
    events = list(child.compute(task, progress))
    for event in events:
        if isinstance(event, StepFailed):
            raise event.error
    return [event for event in events if isinstance(event, TableWritten)]


class Kills:
    """A receiver of progress that kills the child when its first task starts."""

    def start(self, task: str, total: int, tokens: int = 0) -> None:
        (pid,) = children()
        os.kill(pid, signal.SIGKILL)

    def advance(self, amount: int = 1) -> None: ...

    def done(self) -> None: ...


class Cancels(Kills):
    """A receiver that interrupts its own process, as Dagster does to a canceled run, when the first task starts."""

    def start(self, task: str, total: int, tokens: int = 0) -> None:
        raise KeyboardInterrupt


def test_a_child_writes_what_a_run_writes_and_is_replaced_when_it_was_killed_or_cancelled(
    child: ChildProcess, study: StudyFile, tmp_path: Path, computed_once: Path
) -> None:
    root = tmp_path / "warehouse"
    root.mkdir()
    reports = asked(child, "models", study, root)
    first = children()
    reports += asked(child, "calibration", study, root)
    assert children() == first, "one process for all tasks of a run"
    assert [report.table for report in reports] == ["models", "activation_stats", "block_influence"]
    found, wanted = rows(root), rows(computed_once)
    assert len(found) == len(reports)
    assert all(found[name].equals(wanted[name]) for name in found)
    with pytest.raises(WorkerLostError, match="computes tiny-a calibration ended"):
        asked(child, "calibration", study, root, progress=Kills())
    assert not children()
    # The child may have replaced a table by its equal before it died; it leaves no other file, and none half-written.
    assert {path.name for path in root.rglob("*.parquet")} == {"part.parquet"}
    after = rows(root)
    assert after.keys() == found.keys()
    assert all(after[name].equals(found[name]) for name in found)
    with pytest.raises(InputError, match="nonsense") as caught:
        asked(child, "speed", study, root, "nonsense")
    assert "in compute" in str(caught.value.__cause__), "its own traceback is the cause"
    assert [report.table for report in asked(child, "models", study, root)] == ["models"]
    assert len(children() - first) == 1
    with pytest.raises(KeyboardInterrupt):
        asked(child, "calibration", study, root, progress=Cancels())
    assert not children()
    assert not [finding for finding in diagnose(root) if finding.level == "error"]


# A run that waits for a child; its second process is that of multiprocessing's own bookkeeping.
_RUN = """
import multiprocessing, sys, time
from prunescope.assets.execution.child_process import _start

if __name__ == "__main__":
    process, _ = _start()
    print(process.pid, flush=True)
    time.sleep(600)
"""


def test_a_child_ends_with_its_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(_RUN)
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT / ".src")}
    )
    with parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    psutil.wait_procs([child], timeout=240)
    assert not child.is_running()


def test_a_child_that_never_started_needs_no_end() -> None:
    before = multiprocessing.active_children()
    ChildProcess().end()
    assert multiprocessing.active_children() == before
