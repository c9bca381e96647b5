"""Progress bars on standard error."""

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from prunescope.assets.cli.output import STDERR, log, log_wait
from prunescope.warehouse.core.quoting import escape_control

if TYPE_CHECKING:
    from rich.progress import TaskID

    from prunescope.assets.runs.outcome import Failure

# In a pipe or a log: the silence before the first line about the current task, and at most.
SILENT_SECONDS, _MAX_SILENT_SECONDS = 15.0, 240.0


class RichProgress:
    """A bar for all partitions and one for the current task.

    In a pipe or a log, a line per finished partition, and one about the current task after each long silence.
    """

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._bars = Progress(*columns, console=STDERR, transient=True, disable=not STDERR.is_terminal)
        self._partitions: TaskID | None = None
        self._task: TaskID | None = None
        self._is_over = threading.Event()
        self._has_logged = False

    def __enter__(self) -> Self:
        """Show the bars."""
        self._bars.start()
        if not STDERR.is_terminal:
            threading.Thread(target=self._report, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the bars."""
        self._is_over.set()
        self._bars.stop()

    def start(self, task: str, total: int) -> None:
        """Show a bar for a task of `total` steps, in place of the previous task's."""
        self.done()
        self._task = self._bars.add_task(escape_control(task), total=total)

    def advance(self, amount: int = 1) -> None:
        """Advance the task's bar."""
        if self._task is not None:
            self._bars.advance(self._task, amount)

    def done(self) -> None:
        """Remove the task's bar."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None

    def waiting(self, holder: str) -> None:
        """Log that another process holds the warehouse, and show the wait as a task."""
        self._has_logged = True
        log_wait(holder)
        self.start("wait for the warehouse", 1)

    def planned(self, partitions: int) -> None:
        """Show a bar for the partitions to compute."""
        self._partitions = self._bars.add_task("partitions", total=partitions)

    def computed(self, name: str, seconds: float) -> None:
        """Log a finished partition and advance the bar."""
        self.shared(name, seconds)
        self._step()

    def shared(self, name: str, seconds: float) -> None:
        """Log finished work that several partitions share."""
        self._has_logged = True
        self.done()
        log(f"{name}: {seconds:.1f} s")

    def note(self, message: str) -> None:
        """Log a note to the user."""
        self._has_logged = True
        log(message, "yellow")

    def failed(self, failure: "Failure") -> None:
        """Log a failed partition and advance the bar."""
        self._has_logged = True
        self.done()
        log(f"{failure.name}: failed: {failure.message}", "red")
        self._step()

    def _report(self) -> None:
        """Log the current task whenever nothing was logged for long, ever less often."""
        seconds = SILENT_SECONDS
        while not self._is_over.wait(seconds):
            if self._has_logged:
                self._has_logged, seconds = False, SILENT_SECONDS
                continue
            seconds = min(2 * seconds, _MAX_SILENT_SECONDS)
            shown = self._partitions if self._task is None else self._task
            task = next((task for task in self._bars.tasks if task.id == shown), None)
            log(
                f"still at work: {task.description}, {task.completed:.0f} of {task.total:.0f}"
                if task
                else "still at work"
            )

    def _step(self) -> None:
        if self._partitions is not None:
            self._bars.advance(self._partitions)
