"""Progress bars on standard error."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from prunescope.assets.cli.output import STDERR, log
from prunescope.warehouse.core.quoting import visible

if TYPE_CHECKING:
    from rich.progress import TaskID

    from prunescope.assets.runs.outcome import Failure


class RichProgress:
    """A bar for all partitions and one for the current task; in a pipe or a log, a line per finished partition."""

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

    def __enter__(self) -> Self:
        """Show the bars."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the bars."""
        self._bars.stop()

    def start(self, task: str, total: int) -> None:
        """Show a bar for a task of `total` steps, in place of the previous task's."""
        self.done()
        self._task = self._bars.add_task(visible(task), total=total)

    def advance(self, amount: int = 1) -> None:
        """Advance the task's bar."""
        if self._task is not None:
            self._bars.advance(self._task, amount)

    def done(self) -> None:
        """Remove the task's bar."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None

    def waiting(self) -> None:
        """Log that another process holds the warehouse."""
        log("another prunescope run uses this warehouse; waiting for it to end (Ctrl-C to stop)", "yellow")

    def planned(self, partitions: int) -> None:
        """Show a bar for the partitions to compute."""
        self._partitions = self._bars.add_task("partitions", total=partitions)

    def computed(self, name: str, seconds: float) -> None:
        """Log a finished partition and advance the bar."""
        self.shared(name, seconds)
        self._step()

    def shared(self, name: str, seconds: float) -> None:
        """Log finished work that several partitions share."""
        self.done()
        log(f"{name}: {seconds:.1f} s")

    def note(self, message: str) -> None:
        """Log a note to the user."""
        log(message, "yellow")

    def failed(self, failure: "Failure") -> None:
        """Log a failed partition and advance the bar."""
        self.done()
        log(f"{failure.name}: failed: {failure.message}", "red")
        self._step()

    def _step(self) -> None:
        if self._partitions is not None:
            self._bars.advance(self._partitions)
