"""The run launcher of UI and daemon: Dagster's default, with a health check for run monitoring.

Without the check, a run whose process was killed would stay unfinished forever and keep its slot in a pool.
"""

import os
from pathlib import Path

from dagster import DagsterEventType, DagsterRun, DefaultRunLauncher

# The health check has no public names; test_interrupted runs it.
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG


class LocalRunLauncher(DefaultRunLauncher):
    """A launcher that starts a run in a child process of the code server and checks whether the process is alive."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Return true, so that run monitoring checks every unfinished run."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Check the process named in the run's own events; `instance.recover` ends runs of the command line."""
        pids = self._pids(run.run_id) if GRPC_INFO_TAG in run.tags else []
        if pids and not _is_alive(pids[-1]):
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "the process of this run was killed")
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def _pids(self, run_id: str) -> list[int]:
        # `_instance` is how Dagster's own launchers reach the instance; test_launcher covers it.
        events = self._instance.all_logs(run_id, of_type=DagsterEventType.ENGINE_EVENT)
        data = [event.dagster_event.engine_event_data.metadata for event in events if event.dagster_event]
        return [int(metadata["pid"].value) for metadata in data if "pid" in metadata]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # an ended process keeps its number until its parent reads its status; in a container that may be never
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux, or ended meanwhile
        return True
    return status.rpartition(")")[2].split()[:1] != ["Z"]
