"""Progress bars on standard error; in a pipe or a log, one line for each finished partition.

Knows nothing of what is computed.
"""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from prunescope.assets.cli.output import STDERR, log
from prunescope.warehouse.core.quoting import visible

if TYPE_CHECKING:
    from rich.progress import TaskID

    from prunescope.assets.runs.outcome import Failure


class RichProgress:
    """One bar for the partitions, one for the task at hand."""

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
        self._all: TaskID | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        """Shows the bars."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Takes the bars away."""
        self._bars.stop()

    def start(self, task: str, total: int) -> None:
        """A task of `total` steps begins."""
        self.done()
        self._task = self._bars.add_task(visible(task), total=total)

    def advance(self, amount: int = 1) -> None:
        """`amount` more steps are done."""
        if self._task is not None:
            self._bars.advance(self._task, amount)

    def done(self) -> None:
        """The task is finished."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None

    def waiting(self) -> None:
        """Another process computes in this warehouse."""
        log("another prunescope run is at work in this warehouse; waiting for it (Ctrl-C to stop)", "yellow")

    def planned(self, partitions: int) -> None:
        """That many partitions will be computed."""
        self._all = self._bars.add_task("partitions", total=partitions)

    def computed(self, name: str, seconds: float) -> None:
        """A partition is done."""
        self.shared(name, seconds)
        self._step()

    def shared(self, name: str, seconds: float) -> None:
        """Work is done that several partitions share."""
        self.done()
        log(f"{name}: {seconds:.1f} s")

    def note(self, message: str) -> None:
        """Something that the user should know."""
        log(message, "yellow")

    def failed(self, failure: "Failure") -> None:
        """A partition failed."""
        self.done()
        log(f"{failure.name}: failed: {failure.message}", "red")
        self._step()

    def _step(self) -> None:
        if self._all is not None:
            self._bars.advance(self._all)
