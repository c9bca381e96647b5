"""How long computations tell how far they are, without knowing who listens.

The command line draws bars, Dagster writes events, tests pass SILENT.
"""

from typing import Protocol


class Progress(Protocol):
    """A listener; one task at a time."""

    def start(self, task: str, total: int) -> None:
        """A task of `total` steps begins."""

    def advance(self, amount: int = 1) -> None:
        """`amount` more steps are done."""

    def done(self) -> None:
        """The task is finished."""


class _Silent:
    def start(self, task: str, total: int) -> None:
        """Says nothing."""

    def advance(self, amount: int = 1) -> None:
        """Says nothing."""

    def done(self) -> None:
        """Says nothing."""


SILENT: Progress = _Silent()
