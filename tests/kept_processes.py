"""Processes for SQL that tests share: to start one takes longer than all else that a command or a question does."""

from collections.abc import Iterator
from contextlib import contextmanager

from prunescope.warehouse.catalogue.sql_process import Setup, SqlProcess


class KeptProcesses:
    """One process per setup, over warehouses that do not change; close them at the end."""

    def __init__(self) -> None:
        self._of: dict[Setup, SqlProcess] = {}

    @contextmanager
    def give(self, setup: Setup) -> Iterator[SqlProcess]:
        """Lend the process of a setup."""
        if setup in self._of and not self._of[setup].is_alive:
            self._of.pop(setup).close()
        if setup not in self._of:
            self._of[setup] = SqlProcess(setup)
        yield self._of[setup]

    def close(self) -> None:
        for process in self._of.values():
            process.close()
