"""Progress as occasional lines of text, for logs that people read."""

import time
from collections.abc import Callable

EVERY_SECONDS = 5.0


class LogProgress:
    """A listener that writes the first event at once, then at most one line per interval.

    It also writes the end of a task that took at least an interval and of which it wrote a line.

    Args:
        write: writes a line.
        prefix: begins every line.
        clock: seconds, as `time.monotonic`.
    """

    def __init__(self, write: Callable[[str], None], prefix: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._prefix, self._clock = write, prefix, clock
        self._next, self._began = clock(), clock()
        self._task, self._total, self._steps, self._is_logged = "", 0, 0, False

    def start(self, task: str, total: int, tokens: int = 0) -> None:  # noqa: ARG002
        """Begin a task of `total` steps."""
        self._task, self._total, self._steps, self._is_logged = task, total, 0, False
        self._began = self._clock()
        self._log()

    def advance(self, amount: int = 1) -> None:
        """Count `amount` more steps as done."""
        self._steps += amount
        self._log()

    def done(self) -> None:
        """Finish the task."""
        seconds = self._clock() - self._began
        if self._is_logged and seconds >= EVERY_SECONDS:
            self._write(f"{self._prefix}: {self._task}: done in {seconds:.0f} s")
        self._is_logged = False

    def _log(self) -> None:
        if self._clock() >= self._next:
            self._next, self._is_logged = self._clock() + EVERY_SECONDS, True
            self._write(f"{self._prefix}: {self._task}: {self._steps} of {self._total}")
