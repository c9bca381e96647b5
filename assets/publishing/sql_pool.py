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
        self._max_idle = _MAX_IDLE

    def prepare(self, setup: Setup, version: str) -> None:
        """Start a process that will be needed, unless there is one."""
        if not self._used and all((setup, version) != known[:2] for known in self._idle):
            self.give_back(setup, version, self.take(setup, version))

    def take(self, setup: Setup, version: str) -> SqlProcess:
        """Return a process for the caller alone, until `give_back`."""
        with self._lock:
            index = next((i for i, known in enumerate(self._idle) if (setup, version) == known[:2]), None)
            process = SqlProcess(setup) if index is None else self._idle.pop(index)[2]
            self._used.add(process)
        return process

    def give_back(self, setup: Setup, version: str, process: SqlProcess) -> None:
        """Keep the process for the next statement; start another one if a limit ended it."""
        with self._lock:
            self._used.discard(process)
            if not process.is_alive and self._max_idle:
                process.close()
                process = SqlProcess(setup)
            self._idle.append((setup, version, process))
            old = [self._idle.pop(0) for _ in range(len(self._idle) - self._max_idle)]
        for _, _, each in old:
            each.close()

    def close(self) -> None:
        """End all processes; those in use fail in the thread that waits for them."""
        with self._lock:
            self._max_idle = 0
            idle, self._idle = self._idle, []
            for process in self._used:
                process.cancel()
        for _, _, process in idle:
            process.close()
