"""Progress as an occasional line of text, for a log that people read and that every line makes longer.

Who writes the line is the caller's business.
"""

import time
from collections.abc import Callable

from prunescope.pipelines.core.progress import Progress

EVERY_SECONDS = 5.0


class LogProgress:
    """Says the first thing at once, then at most one line in some seconds, and how a task ended that it told of.

    Args:
        say: writes a line.
        about: what every line begins with.
        clock: seconds, as `time.monotonic`.
    """

    def __init__(self, say: Callable[[str], None], about: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._about, self._clock = say, about, clock
        self._next, self._began = clock(), clock()
        self._task, self._total, self._steps, self._is_told = "", 0, 0, False

    def start(self, task: str, total: int) -> None:
        """A task of `total` steps begins."""
        self._task, self._total, self._steps, self._is_told = task, total, 0, False
        self._began = self._clock()
        self._tell()

    def advance(self, amount: int = 1) -> None:
        """`amount` more steps are done."""
        self._steps += amount
        self._tell()

    def done(self) -> None:
        """The task is finished."""
        if self._is_told and self._clock() - self._began >= EVERY_SECONDS:
            self._say(f"{self._about}: {self._task}: done in {self._clock() - self._began:.0f} s")
        self._is_told = False

    def _tell(self) -> None:
        if self._clock() >= self._next:
            self._next, self._is_told = self._clock() + EVERY_SECONDS, True
            self._say(f"{self._about}: {self._task}: {self._steps} of {self._total}")


class ProgressGroup:
    """Tells two listeners."""

    def __init__(self, *listeners: Progress) -> None:
        self._listeners = listeners

    def start(self, task: str, total: int) -> None:
        """A task of `total` steps begins."""
        for listener in self._listeners:
            listener.start(task, total)

    def advance(self, amount: int = 1) -> None:
        """`amount` more steps are done."""
        for listener in self._listeners:
            listener.advance(amount)

    def done(self) -> None:
        """The task is finished."""
        for listener in self._listeners:
            listener.done()
