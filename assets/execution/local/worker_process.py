"""The worker of a warehouse: a process beside the runs that keeps a model loaded and computes one part at a time.

`warm.py` starts it on a socket that listens already, asks it and ends it.
"""

import json
import os
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

from prunescope.assets import settings
from prunescope.assets.execution.error_transport import KINDS, is_transient
from prunescope.assets.execution.model_cache import ModelCache
from prunescope.assets.execution.step_functions import compute
from prunescope.assets.execution.task import ComputeTask
from prunescope.pipelines.core import scratch_directory
from prunescope.warehouse.storage.partition_store import Store

# Steps of a computation are told together when so many seconds have passed.
_TOLD_EVERY = 0.2


class _Sender:
    """Sends lines of JSON to whoever asked, progress among them."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._advanced, self._told = 0, 0.0

    def send(self, kind: str, value: object) -> None:
        self._connection.sendall(json.dumps({kind: value}).encode() + b"\n")

    def start(self, task: str, total: int) -> None:
        self._advanced = 0
        self.send("start", [task, total])

    def advance(self, amount: int = 1) -> None:
        self._advanced += amount
        if time.monotonic() - self._told >= _TOLD_EVERY:
            self.send("advance", self._advanced)
            self._advanced, self._told = 0, time.monotonic()

    def done(self) -> None:
        self.send("done", None)


def serve(listener: socket.socket, path: Path, identity: str, idle: float) -> None:
    """Answers one client after the other until nobody has come for `idle` seconds.

    Args:
        listener: where clients come.
        path: its socket; removed at the end.
        identity: the code and the environment that this process was started with, as its starter calls them.
        idle: in seconds.
    """
    scratch_directory.clean()
    loaded = ModelCache()
    listener.settimeout(idle)
    while True:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            break
        with connection:
            try:
                _answer(connection, identity, loaded)
            except BrokenPipeError:
                os._exit(1)  # nobody waits for this part any more
    # Before the listener closes: whoever connects in between sees the end, and finds the place free.
    path.unlink(missing_ok=True)


def _answer(connection: socket.socket, identity: str, loaded: ModelCache) -> None:
    """Introduces itself, takes one part, computes it."""
    sender = _Sender(connection)
    sender.send("hello", {"pid": os.getpid(), "identity": identity})
    line, locks, _, _ = socket.recv_fds(connection, 1 << 16, 1)
    while line and not line.endswith(b"\n"):
        line += connection.recv(1 << 16)
    if not line:
        return
    is_over = threading.Event()
    watcher = threading.Thread(target=_leave_with_the_client, args=(connection, is_over), daemon=True)
    watcher.start()
    loaded.progress = sender
    try:
        part = ComputeTask.from_json(line.decode())
        Store(part.root).clean_temporaries()
        for report in compute(part, loaded):
            sender.send("report", report.to_json())
        kind, end = "end", None
    except Exception as error:  # the client raises it
        kind, end = "error", _told(error)
    finally:
        for lock in locks:
            os.close(lock)
    is_over.set()
    sender.send(kind, end)
    watcher.join()


def _leave_with_the_client(connection: socket.socket, is_over: threading.Event) -> None:
    """Ends this process when the client has gone in the middle of a part: files are whole or not there."""
    with suppress(ConnectionError):
        connection.recv(1)
    if not is_over.is_set():
        os._exit(1)


def _told(error: Exception) -> dict[str, object]:
    """An error in words, with the nearest of the kinds that a client knows."""
    kind = next((one.__name__ for one in type(error).__mro__ if one.__name__ in KINDS), None)
    message = str(error) if kind else f"{type(error).__name__}: {error}"
    where = "".join(traceback.format_exception(error))
    return {"kind": kind, "message": message, "traceback": where, "can_pass": is_transient(error)}


def main() -> None:
    """Serves on the socket whose descriptor, place and starter's identity are the arguments."""
    settings.let_waiting_threads_sleep()
    number, place, identity = sys.argv[1:]
    serve(socket.socket(fileno=int(number)), Path(place), identity, settings.worker_idle_seconds())
