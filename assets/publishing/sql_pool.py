"""Processes for users' SQL that are started ahead and used again."""

import threading

from prunescope.warehouse.catalogue.sql_process import Setup, SqlProcess

# Idle processes; each has about 150 MB.
_MAX_IDLE = 2


class SqlPool:
    """Idle processes by what they may read and the version of the warehouse that they opened; for several threads."""

    def __init__(self) -> None:
        """Start without a process."""
        self._idle: list[tuple[Setup, str, SqlProcess]] = []
        self._used: set[SqlProcess] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def prepare(self, setup: Setup, version: str) -> None:
        """Start a process that will be needed, unless there is one."""
        with self._lock:
            if any((setup, version) == known[:2] for known in self._idle) or self._used or self._is_closed:
                return
        self._keep(setup, version, SqlProcess(setup))

    def take(self, setup: Setup, version: str) -> SqlProcess:
        """Return a process for the caller alone, until `give_back`."""
        with self._lock:
            index = next((i for i, known in enumerate(self._idle) if (setup, version) == known[:2]), None)
            process = SqlProcess(setup) if index is None else self._idle.pop(index)[2]
            self._used.add(process)
        return process

    def give_back(self, setup: Setup, version: str, process: SqlProcess) -> None:
        """Keep the process for the next statement; start another one where a limit ended it."""
        with self._lock:
            self._used.discard(process)
        if not process.is_alive:
            process.close()
            if self._is_closed:
                return
            process = SqlProcess(setup)
        self._keep(setup, version, process)

    def close(self) -> None:
        """End all processes; those in use fail in the thread that waits for them."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            for process in self._used:
                process.cancel()
        for _, _, process in idle:
            process.close()

    def _keep(self, setup: Setup, version: str, process: SqlProcess) -> None:
        with self._lock:
            self._idle.append((setup, version, process))
            old = [self._idle.pop(0) for _ in range(len(self._idle) - (0 if self._is_closed else _MAX_IDLE))]
        for _, _, each in old:
            each.close()
