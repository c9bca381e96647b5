"""The client of a warehouse's worker process: starts it, sends it tasks, and ends it when a task is given up.

The caller holds the writer lock of the warehouse, so each worker has one client at a time.
"""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from prunescope.assets import settings
from prunescope.assets.execution.error_transport import WorkerLostError
from prunescope.assets.execution.task import EVENT, TASK, Event, ModelTask, StepFailed
from prunescope.pipelines.core.progress import Progress

# The worker's output; every worker overwrites it.
LOG = "_worker.log"
# Time between SIGTERM and SIGKILL.
_EXIT_SECONDS = 2.0
_PACKAGE = Path(__file__).parents[3]
# Forks, so that the worker outlives this process and this process need not wait for it.
_START = (
    "import os; os.fork() and os._exit(0); from prunescope.assets.execution.local.worker_process import main; main()"
)


def compute_in_worker(task: ModelTask, progress: Progress, local: Path, lock: int) -> Iterator[Event]:
    """Compute a task in the warehouse's worker; closing this generator early ends the worker.

    Args:
        task: the task.
        progress: receives the worker's progress.
        local: the warehouse's folder on this machine.
        lock: file descriptor of the writer lock. The worker holds a copy, so that the warehouse stays locked if this
            process dies.

    Raises:
        InputError, ComputationError, WarehouseError: as `compute`.
        WorkerLostError: the worker ended, or could not be started.
    """
    worker = _running_worker(local) or _start_worker(local)
    is_over = False
    try:
        worker.send(task, lock)
        for kind, value in worker.messages():
            match kind:
                case "event":
                    yield EVENT.validate_json(value)
                case "start":
                    progress.start(*value)
                case "advance":
                    progress.advance(value)
                case "done":
                    progress.done()
                case _:
                    is_over = True
                    if kind == "error":
                        raise StepFailed(**value).error
                    return
        raise WorkerLostError(f"the worker of {local} ended during {task.title}; see {local / LOG}")
    finally:
        if not is_over:
            worker.end()
        worker.close()


def stop_worker(local: Path) -> None:
    """End the worker of a warehouse, if there is one, to free the memory of its model."""
    if worker := _connect(_socket_path(local)):
        worker.end()
        worker.close()


@dataclass(frozen=True)
class _Worker:
    """A connection to a worker that has sent its process id and identity."""

    connection: socket.socket
    lines: BinaryIO
    pid: int
    identity: str

    def send(self, task: ModelTask, lock: int) -> None:
        message = TASK.dump_json(task) + b"\n"
        with suppress(ConnectionError):  # `messages` then ends without a result
            sent = socket.send_fds(self.connection, [message], [lock])
            self.connection.sendall(message[sent:])

    def messages(self) -> Iterator[tuple[str, Any]]:
        """Yield the worker's messages until the connection ends."""
        with suppress(ConnectionError):
            for line in self.lines:
                if line.endswith(b"\n"):
                    yield from json.loads(line).items()

    def close(self) -> None:
        self.lines.close()
        self.connection.close()

    def end(self) -> None:
        """End the process and wait until it is gone, which closes the connection."""
        self.connection.settimeout(_EXIT_SECONDS)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
            with suppress(TimeoutError):
                with suppress(ConnectionError):
                    while self.connection.recv(1 << 16):
                        pass
                return


def _running_worker(local: Path) -> _Worker | None:
    """Connect to the running worker; end it if it was started with other code or another environment."""
    worker = _connect(_socket_path(local))
    if worker is None or worker.identity == _identity():
        return worker
    worker.end()
    worker.close()
    return None


def _start_worker(local: Path) -> _Worker:
    """Start a worker on a socket that listens already, so that connecting needs no retries."""
    path = _socket_path(local)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener, (local / LOG).open("wb") as log:
        listener.bind(str(path))
        listener.listen()
        number = listener.fileno()
        subprocess.run(
            [sys.executable, "-P", "-c", _START, str(number), str(path), _identity()],
            check=True,
            pass_fds=[number],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": settings.python_path()},
            # Signals to the terminal's or the run's process group must not reach it.
            start_new_session=True,
        )
    worker = _connect(path)
    if worker is None:
        raise WorkerLostError(f"the worker of {local} could not start; see {local / LOG}")
    return worker


def _connect(path: Path) -> _Worker | None:
    """Connect to the worker behind a socket; return None if there is none.

    Without a timeout: a worker that listens answers as soon as it has started up or ended its last task.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
        lines = connection.makefile("rb")
        hello = json.loads(lines.readline() or b"null")
    except (OSError, ValueError):
        hello = None
    if hello is None:
        connection.close()
        return None
    return _Worker(connection, lines, **hello["hello"])


def _socket_path(local: Path) -> Path:
    name = hashlib.sha256(os.fsencode(local.resolve())).hexdigest()[:16]
    return settings.sockets_folder() / f"{name}.sock"


def _identity() -> str:
    """Hash this process's code and environment; a worker that was started with others is replaced."""
    modules = [path for room in ("assets", "pipelines", "warehouse") for path in _modules(_PACKAGE / room)]
    stamps = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in modules]
    installed = Path(sysconfig.get_path("purelib")).stat().st_mtime_ns
    # Dagster sets other variables in every run.
    variables = sorted(item for item in os.environ.items() if not item[0].startswith("DAGSTER"))
    parts = [sys.executable, os.getcwd(), installed, stamps, variables]  # noqa: PTH109 - as text
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _modules(package: Path) -> Iterator[Path]:
    """Yield the modules of a package; folders without `__init__.py`, such as a warehouse's data, are skipped."""
    yield from sorted(package.glob("*.py"))
    for inside in sorted(package.glob("*/__init__.py")):
        yield from _modules(inside.parent)
