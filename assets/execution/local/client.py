"""Asks the worker of a warehouse to compute a part; starts it where there is none, ends it when the part is given up.

All of it as the warehouse's only writer, so nobody else talks to the worker meanwhile. The worker itself: `worker.py`.
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
from prunescope.assets.execution.error_transport import KINDS, TransientError, WorkerLostError
from prunescope.assets.execution.task import ComputeTask, TaskResult
from prunescope.pipelines.core.progress import Progress

# What a worker prints; every worker begins it anew.
LOG = "_worker.log"
# How long a worker may take to go when it is told to, before it is killed.
_LEAVE_SECONDS = 2.0
_ROOMS = Path(__file__).parents[3]
_HOME = settings.package_parent()
# A process of its own, child of nobody that could end before it or would have to ask how it ended.
_START = (
    "import os; os.fork() and os._exit(0); from prunescope.assets.execution.local.worker_process import main; main()"
)


class _RemoteError(Exception):
    """The traceback of an error where it arose."""


def compute_in_worker(part: ComputeTask, progress: Progress, local: Path, lock: int) -> Iterator[TaskResult]:
    """Has the worker of a warehouse compute a part; whoever stops asking stops the worker.

    Args:
        part: what to compute.
        progress: told what the worker tells.
        local: the warehouse's folder on this machine.
        lock: as `only_writer` yields it. The worker holds a copy, so that nobody writes beside it should this process
            die.

    Raises:
        InputError, ComputationError, WarehouseError: as `compute`.
        WorkerLostError: the worker ended, or could not be started.
    """
    worker = _found(local) or _started(local)
    is_over = False
    try:
        worker.ask(part, lock)
        for kind, value in worker.answers():
            match kind:
                case "report":
                    yield TaskResult.from_json(value)
                case "start":
                    progress.start(*value)
                case "advance":
                    progress.advance(value)
                case "done":
                    progress.done()
                case _:
                    is_over = True
                    if kind == "error":
                        raise _raised(value)
                    return
        raise WorkerLostError(f"the worker of {local} ended in the middle of {part.name}; see {local / LOG}")
    finally:
        if not is_over:
            worker.end()
        worker.close()


def stop_worker(local: Path) -> None:
    """Ends the worker of a warehouse, if there is one, so that its model is in nobody's way."""
    if worker := _connected(_socket_of(local)):
        worker.end()
        worker.close()


@dataclass(frozen=True)
class _Worker:
    """A connection to a worker that has introduced itself."""

    connection: socket.socket
    lines: BinaryIO
    pid: int
    identity: str

    def ask(self, part: ComputeTask, lock: int) -> None:
        message = part.to_json().encode() + b"\n"
        with suppress(ConnectionError):  # the answer, or that there is none, tells more
            sent = socket.send_fds(self.connection, [message], [lock])
            self.connection.sendall(message[sent:])

    def answers(self) -> Iterator[tuple[str, Any]]:
        """What it says, until it says no more."""
        with suppress(ConnectionError):
            for line in self.lines:
                if line.endswith(b"\n"):
                    yield from json.loads(line).items()

    def close(self) -> None:
        self.lines.close()
        self.connection.close()

    def end(self) -> None:
        """Ends the process, whatever it is doing, and waits until it has gone: the system then ends the connection."""
        self.connection.settimeout(_LEAVE_SECONDS)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
            with suppress(TimeoutError):
                self._read_to_the_end()
                return

    def _read_to_the_end(self) -> None:
        with suppress(ConnectionError):
            while self.connection.recv(1 << 16):
                pass


def _raised(told: dict[str, Any]) -> Exception:
    """The error that a worker has told of, with its own traceback as the cause."""
    error = KINDS.get(told["kind"], RuntimeError)(told["message"])
    error.__cause__ = (TransientError if told["can_pass"] else _RemoteError)(told["traceback"])
    return error


def _found(local: Path) -> _Worker | None:
    """The worker that waits, if it runs this code in this environment; one that does not is ended."""
    worker = _connected(_socket_of(local))
    if worker is None or worker.identity == _identity():
        return worker
    worker.end()
    worker.close()
    return None


def _started(local: Path) -> _Worker:
    """A new worker; the socket listens before it runs, so that nobody has to wait for it to appear."""
    path, environment = _socket_of(local), os.environ.copy()
    environment["PYTHONPATH"] = os.pathsep.join([str(_HOME), *filter(None, [environment.get("PYTHONPATH")])])
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
            env=environment,
            # What a terminal or a run's process group is told does not concern it.
            start_new_session=True,
        )
    worker = _connected(path)
    if worker is None:
        raise WorkerLostError(f"the worker of {local} could not start; see {local / LOG}")
    return worker


def _connected(path: Path) -> _Worker | None:
    """A worker that introduces itself on a socket; None where nobody does.

    No limit of time: who listens is starting up on a busy machine, or idle and about to answer.
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


def _socket_of(local: Path) -> Path:
    name = hashlib.sha256(os.fsencode(local.resolve())).hexdigest()[:16]
    return settings.sockets_folder() / f"{name}.sock"


def _identity() -> str:
    """The code and the environment of this process: a worker that was started with others is of no use."""
    modules = [path for room in ("assets", "pipelines", "warehouse") for path in _modules(_ROOMS / room)]
    stamps = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in modules]
    installed = Path(sysconfig.get_path("purelib")).stat().st_mtime_ns
    # What Dagster sets differs from run to run.
    variables = sorted(item for item in os.environ.items() if not item[0].startswith("DAGSTER"))
    told = [sys.executable, os.getcwd(), installed, stamps, variables]  # noqa: PTH109 - as text
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _modules(package: Path) -> Iterator[Path]:
    """The modules of a package; folders that are none, such as the data of a warehouse, are not walked."""
    yield from sorted(package.glob("*.py"))
    for inside in sorted(package.glob("*/__init__.py")):
        yield from _modules(inside.parent)
