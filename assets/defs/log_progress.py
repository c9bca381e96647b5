"""Progress of a run or a step as lines of a log that people read."""

import time
from logging import Logger

EVERY_SECONDS = 5.0


class LogListener:
    """The receiver of a study's progress that writes to a log, such as that of a Dagster run.

    Of tasks it writes the first event at once, then at most one line per interval, and the end of one that took at
    least an interval. `prefix` begins these lines.
    """

    def __init__(self, log: Logger, prefix: str = "progress") -> None:
        self._log, self._prefix = log, prefix
        self._next = self._began = time.monotonic()
        self._task, self._total, self._steps = "", 0, 0

    def start(self, task: str, total: int, tokens: int = 0) -> None:  # noqa: ARG002
        """Begin a task of `total` steps."""
        self._task, self._total, self._steps = task, total, 0
        self._began = time.monotonic()
        self._report()

    def advance(self, amount: int = 1) -> None:
        """Count `amount` more steps as done."""
        self._steps += amount
        self._report()

    def done(self) -> None:
        """Finish the task."""
        seconds = time.monotonic() - self._began
        if seconds >= EVERY_SECONDS:
            self._log.info(f"{self._prefix}: {self._task}: done in {seconds:.0f} s")

    def planned(self, partitions: int) -> None:
        """Log the number of partitions to compute."""
        self._log.info(f"{partitions} partitions to compute")

    def begins(self, name: str, step: str) -> None:
        """Log that a step of a partition begins."""
        self._log.info(f"{name}: {step}")

    def computed(self, name: str, seconds: float) -> None:
        """Log a finished partition."""
        self._log.info(f"{name}: {seconds:.1f} s")

    def note(self, message: str) -> None:
        """Log a warning to the user."""
        self._log.warning(message)

    def failed(self, name: str, message: str) -> None:
        """Log a failed partition."""
        self._log.error(f"{name}: {message}")

    def _report(self) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY_SECONDS
            self._log.info(f"{self._prefix}: {self._task}: {self._steps} of {self._total}")
