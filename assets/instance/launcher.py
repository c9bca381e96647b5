"""How the interface and the daemon start runs: as Dagster does on one machine, and run monitoring sees who has died.

A run whose code server was killed would stay under way for ever otherwise, and hold its place.
"""

import os
from pathlib import Path

from dagster import DagsterRun
from dagster._core.events import DagsterEventType
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG


class LocalRunLauncher(DefaultRunLauncher):
    """Starts a run in a process of the code server's, and tells whether it is still there."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring asks for every run that is under way."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Looks for the process that the run itself has named; those of the command line `instance.recover` clears."""
        pids = self._pids(run.run_id) if GRPC_INFO_TAG in run.tags else []
        if pids and not _is_alive(pids[-1]):
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "the process of this run was killed")
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def _pids(self, run_id: str) -> list[int]:
        events = self._instance.all_logs(run_id, of_type=DagsterEventType.ENGINE_EVENT)
        told = [event.dagster_event.engine_event_data.metadata for event in events if event.dagster_event]
        return [int(metadata["pid"].value) for metadata in told if "pid" in metadata]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether it has ended and only its number is left, as where the first process of a container reaps nothing."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # no Linux, or gone meanwhile
        return False
    return told.rpartition(")")[2].split()[:1] == ["Z"]
