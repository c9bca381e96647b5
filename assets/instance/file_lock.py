"""A file lock between processes: its wait names the holder, and Ctrl-C ends it."""

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prunescope.warehouse.storage.atomic_write import translate_os_errors


@contextmanager
def locked(path: Path, log: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a file, which is made if it does not exist; the lock ends with the process at the latest.

    `log` receives one message if another process, which the file names, holds the lock.

    Raises:
        WarehouseError: the file cannot be written.
    """
    with translate_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8", errors="replace")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200).strip() or "another process"
            log(f"this warehouse is in use; waiting for {holder}, which holds {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(OSError):  # the name of the holder is for messages only, and the disk may be full
            os.truncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
