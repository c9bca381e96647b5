"""Progress of long computations, as events for any listener: bars, Dagster events, log lines, or SILENT."""

from typing import Protocol


class Progress(Protocol):
    """A listener; one task at a time."""

    def start(self, task: str, total: int, tokens: int = 0) -> None:
        """Begin a task of `total` steps, in which a model reads so many tokens; 0: none, or not known."""

    def advance(self, amount: int = 1) -> None:
        """Count `amount` more steps as done."""

    def done(self) -> None:
        """Finish the task."""


class Silent:
    """A listener that does nothing."""

    def start(self, *_: object, **__: object) -> None:
        """Ignore the event."""

    advance = done = start


SILENT: Progress = Silent()
