"""The process beside a run that computes for it: what runs out of memory ends the child, and the run goes on."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from prunescope.assets import settings
from prunescope.assets.execution.error_transport import WorkerLostError
from prunescope.assets.execution.task import Event, ModelTask, StepFailed
from prunescope.pipelines.core import scratch_directory
from prunescope.pipelines.core.progress import Progress

# Time between SIGTERM and SIGKILL.
_EXIT_SECONDS = 2.0
# Seconds between two progress messages.
_PROGRESS_SECONDS = 0.2


class ChildProcess:
    """A child of this process, which keeps a model loaded from one task to the next and ends with this process."""

    def __init__(self) -> None:
        """Start nothing before the first task."""
        self._started: tuple[BaseProcess, Connection] | None = None

    def compute(self, task: ModelTask, progress: Progress) -> Iterator[Event]:
        """Compute a task in the child; closing this generator early ends the child.

        Raises:
            InputError, ComputationError, WarehouseError: as `compute`.
            WorkerLostError: the child ended, or could not be started.
        """
        self._started = self._started or _start()
        is_over = False
        try:
            for kind, value in _messages(self._started[1], task):
                match kind:
                    case "event":
                        yield value
                    case "start":
                        progress.start(*value)
                    case "advance":
                        progress.advance(value)
                    case "done":
                        progress.done()
                    case _:
                        is_over = True
                        if value is not None:
                            raise value.error
                        return
            raise WorkerLostError(f"the process that computes {task.title} ended")
        finally:
            if not is_over:
                self.end()

    def end(self) -> None:
        """End the child, if there is one, and wait until it is gone, which frees its model."""
        if self._started is None:
            return
        (process, connection), self._started = self._started, None
        process.terminate()
        process.join(_EXIT_SECONDS)
        process.kill()
        process.join()
        connection.close()


def _start() -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    connection, of_child = context.Pipe()
    process = context.Process(target=_serve, args=(of_child,), daemon=True)
    process.start()
    of_child.close()  # so that the connection ends with the child
    return process, connection


def _messages(connection: Connection, task: ModelTask) -> Iterator[tuple[str, Any]]:
    """Send a task; yield the child's messages until the connection ends."""
    try:
        connection.send(task)
        while True:
            yield connection.recv()
    except (EOFError, ConnectionError):
        return


class _Sender:
    """The sender of messages to the parent; also the receiver of a computation's progress."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._advanced, self._sent_at = 0, 0.0

    def send(self, kind: str, value: object) -> None:
        self._connection.send((kind, value))

    def start(self, task: str, total: int, tokens: int = 0) -> None:
        self._advanced = 0
        self.send("start", (task, total, tokens))

    def advance(self, amount: int = 1) -> None:
        self._advanced += amount
        if time.monotonic() - self._sent_at >= _PROGRESS_SECONDS:
            self.send("advance", self._advanced)
            self._advanced, self._sent_at = 0, time.monotonic()

    def done(self) -> None:
        self.send("done", None)


def _serve(connection: Connection) -> None:
    """Compute one task after the other, until the parent ends this process."""
    # Ctrl-C in a terminal reaches this process, too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    settings.let_waiting_threads_sleep()
    scratch_directory.clean()
    from prunescope.assets.execution.compute import compute
    from prunescope.assets.execution.model_session import ModelSession
    from prunescope.warehouse.storage.partition_store import Store

    sender = _Sender(connection)
    session = ModelSession(progress=sender)
    while True:
        task: ModelTask = connection.recv()
        failure: StepFailed | None = None
        try:
            Store(task.root).clean_temporaries()
            for event in compute(task, session):
                sender.send("event", event)
        except Exception as error:  # the parent raises it
            failure = StepFailed.of(None, "", error)
        sender.send("end", failure)


def _exit_with_parent() -> None:
    """End this process if its parent was killed; files are written whole or not at all."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
