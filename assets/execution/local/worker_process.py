"""The worker process of a warehouse: it keeps a model loaded between runs and computes one task at a time.

`client` starts it on a socket that listens already, sends it tasks and ends it.
"""

import json
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from prunescope.assets import settings
from prunescope.assets.execution.compute import compute
from prunescope.assets.execution.model_session import ModelSession
from prunescope.assets.execution.task import EVENT, TASK, StepFailed
from prunescope.pipelines.core import scratch_directory
from prunescope.warehouse.storage.partition_store import Store

# Seconds between two progress messages.
_PROGRESS_SECONDS = 0.2


class _Sender:
    """The sender of JSON lines to the client; also the receiver of a computation's progress."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._advanced, self._sent_at = 0, 0.0

    def send(self, kind: str, value: object) -> None:
        self._connection.sendall(json.dumps({kind: value}).encode() + b"\n")

    def start(self, task: str, total: int, tokens: int = 0) -> None:
        self._advanced = 0
        self.send("start", [task, total, tokens])

    def advance(self, amount: int = 1) -> None:
        self._advanced += amount
        if time.monotonic() - self._sent_at >= _PROGRESS_SECONDS:
            self.send("advance", self._advanced)
            self._advanced, self._sent_at = 0, time.monotonic()

    def done(self) -> None:
        self.send("done", None)


def serve(listener: socket.socket, path: Path, identity: str, idle: float) -> None:
    """Serve one client after the other until no client has connected for `idle` seconds.

    Args:
        listener: the listening socket.
        path: path of the socket; removed at the end.
        identity: hash of the code and environment that this process was started with.
        idle: seconds.
    """
    scratch_directory.clean()
    session = ModelSession()
    listener.settimeout(idle)
    while True:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            break
        with connection:
            try:
                _serve_client(connection, identity, session)
            except BrokenPipeError:
                os._exit(1)  # the client has gone
    # Before the listener closes: a client that connects in between is disconnected and starts a new worker.
    path.unlink(missing_ok=True)


def _serve_client(connection: socket.socket, identity: str, session: ModelSession) -> None:
    """Send the identity, receive one task, and compute it."""
    sender = _Sender(connection)
    sender.send("hello", {"pid": os.getpid(), "identity": identity})
    line, locks, _, _ = socket.recv_fds(connection, 1 << 16, 1)
    while line and not line.endswith(b"\n"):
        line += connection.recv(1 << 16)
    if not line:
        return
    is_over = threading.Event()
    watcher = threading.Thread(target=_exit_with_client, args=(connection, is_over), daemon=True)
    watcher.start()
    session.progress = sender
    try:
        task = TASK.validate_json(line)
        Store(task.root).clean_temporaries()
        for event in compute(task, session):
            sender.send("event", EVENT.dump_json(event).decode())
        kind, end = "end", None
    except Exception as error:  # the client raises it
        kind, end = "error", asdict(StepFailed.of(None, "", error))
    finally:
        for lock in locks:
            os.close(lock)
    is_over.set()
    sender.send(kind, end)
    watcher.join()


def _exit_with_client(connection: socket.socket, is_over: threading.Event) -> None:
    """End this process if the client goes before the task is over; files are written whole or not at all."""
    with suppress(ConnectionError):
        connection.recv(1)
    if not is_over.is_set():
        os._exit(1)


def main() -> None:
    """Serve on the socket that the arguments give: file descriptor, path, and the starter's identity."""
    settings.let_waiting_threads_sleep()
    number, path, identity = sys.argv[1:]
    serve(socket.socket(fileno=int(number)), Path(path), identity, settings.worker_idle_seconds())
