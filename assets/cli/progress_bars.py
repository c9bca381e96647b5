"""Progress bars on standard error, and lines instead of them in a pipe or a log."""

import threading
from typing import TYPE_CHECKING, Self

from prunescope.assets.cli.output import STDERR, log
from prunescope.pipelines.core.escapes import escape_control

if TYPE_CHECKING:
    from rich.progress import Task, TaskID

# If output is not a terminal: seconds from one status line to the next.
STATUS_SECONDS = 60.0
# A step that took less has no line.
_MIN_STEP_SECONDS = 1.0


class RichProgress:
    """A bar for all partitions, and one for the current task, which moves to and fro if the task has a single step.

    In a pipe or a log, a line per finished partition, per step of a second or more, and per minute about the current
    task.
    """

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            Progress,
            ProgressColumn,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class Amount(ProgressColumn):
            def render(self, task: "Task") -> Text:
                return Text(amount(task))

        description = TextColumn("{task.description}", markup=False)
        columns = (SpinnerColumn(), description, BarColumn(30), Amount(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=STDERR, transient=True, disable=not STDERR.is_terminal)
        self._partitions: TaskID | None = None
        self._task: TaskID | None = None
        self._step = ""
        self._step_began = 0.0
        self._is_over = threading.Event()

    def __enter__(self) -> Self:
        """Show the bars."""
        self._bars.start()
        if not STDERR.is_terminal:
            threading.Thread(target=self._report, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bars."""
        self._is_over.set()
        self._bars.stop()

    def start(self, task: str, total: int, tokens: int = 0) -> None:
        """Show a bar for a task of `total` steps, in place of the previous task's."""
        self.done()
        self._task = self._bars.add_task(escape_control(task), total=total if total > 1 else None, tokens=tokens)

    def advance(self, amount: int = 1) -> None:
        """Advance the task's bar."""
        if self._task is not None:
            self._bars.advance(self._task, amount)

    def done(self) -> None:
        """Remove the task's bar."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None

    def planned(self, partitions: int) -> None:
        """Show a bar for the partitions to compute."""
        self.done()
        self._partitions = self._bars.add_task("partitions", total=partitions, tokens=0)

    def begins(self, name: str, step: str) -> None:
        """Show the step of a partition; in a pipe or a log, log the one before if it took a second or more."""
        self._end_step()
        self._step, self._step_began = f"{name}: {step}", self._bars.get_time()
        if self._partitions is not None:
            self._bars.update(self._partitions, description=escape_control(self._step))

    def computed(self, name: str, seconds: float) -> None:
        """Log a finished partition and advance the bar."""
        self._end_step()
        self.done()
        log(f"{name}: {seconds:.1f} s")
        self._advance_partitions()

    def note(self, message: str) -> None:
        """Log a note to the user."""
        log(message, "yellow")

    def failed(self, name: str, message: str) -> None:
        """Log a failed partition and advance the bar."""
        self.done()
        log(f"{name}: failed: {message}", "red")
        self._step = ""
        self._advance_partitions()

    def _end_step(self) -> None:
        """End the step before; in a pipe or a log, log it if it took long enough."""
        step, self._step, seconds = self._step, "", self._bars.get_time() - self._step_began
        if step and seconds >= _MIN_STEP_SECONDS and not STDERR.is_terminal:
            log(f"{step}: {seconds:.1f} s")

    def _report(self) -> None:
        """Log the current task, minute by minute."""
        while not self._is_over.wait(STATUS_SECONDS):
            shown = self._partitions if self._task is None else self._task
            task = next((task for task in self._bars.tasks if task.id == shown), None)
            about = filter(None, [task.description, amount(task)] if task else [])
            log(": ".join(filter(None, ["still at work", ", ".join(about)])))

    def _advance_partitions(self) -> None:
        if self._partitions is not None:
            self._bars.advance(self._partitions)


def amount(task: "Task") -> str:
    """Return what a bar has done: steps, and tokens per second if the task counts them."""
    if task.total is None:
        return ""
    done = f"{task.completed:.0f} of {task.total:.0f}"
    tokens = task.fields["tokens"] * task.completed / task.total if task.total else 0
    return f"{done}, {tokens / task.elapsed:,.0f} tokens/s" if tokens and task.elapsed else done
