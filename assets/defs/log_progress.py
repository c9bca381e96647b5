"""Progress as occasional lines of text, for logs that people read."""

import time
from collections.abc import Callable

EVERY_SECONDS = 5.0


class LogProgress:
    """A listener that writes the first event at once, then at most one line per interval.

    It also writes the end of a task that took at least an interval.

    Args:
        write: writes a line.
        prefix: begins every line.
        clock: seconds, as `time.monotonic`.
    """

    def __init__(self, write: Callable[[str], None], prefix: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._prefix, self._clock = write, prefix, clock
        self._next, self._began = clock(), clock()
        self._task, self._total, self._steps = "", 0, 0

    def start(self, task: str, total: int, tokens: int = 0) -> None:  # noqa: ARG002
        """Begin a task of `total` steps."""
        self._task, self._total, self._steps = task, total, 0
        self._began = self._clock()
        self._log()

    def advance(self, amount: int = 1) -> None:
        """Count `amount` more steps as done."""
        self._steps += amount
        self._log()

    def done(self) -> None:
        """Finish the task."""
        seconds = self._clock() - self._began
        if seconds >= EVERY_SECONDS:
            self._write(f"{self._prefix}: {self._task}: done in {seconds:.0f} s")

    def _log(self) -> None:
        if self._clock() >= self._next:
            self._next = self._clock() + EVERY_SECONDS
            self._write(f"{self._prefix}: {self._task}: {self._steps} of {self._total}")
