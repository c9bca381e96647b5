"""Progress bars on standard error, and lines instead of them in a pipe or a log."""

import threading
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

from prunescope.assets.cli.output import STDERR, log, log_wait
from prunescope.assets.runs.remaining_time import RemainingTime, Stage
from prunescope.warehouse.core.quoting import escape_control

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Task, TaskID

    from prunescope.assets.runs.outcome import Failure

# In a pipe or a log: the silence before the first line about the current task, and at most.
SILENT_SECONDS, _MAX_SILENT_SECONDS = 15.0, 240.0
# A stage that took less has no line.
_MIN_STAGE_SECONDS = 1.0
# The time of a task is known only after this share of it.
_MIN_SHARE = 0.1
# The end of an estimate that is used up while the work goes on is not announced.
_MIN_LEFT_SECONDS = 0.5


class RichProgress:
    """A bar for all partitions, and one for the current task, which moves to and fro if the task has a single step.

    In a pipe or a log, a line per finished stage and partition, and one about the current task after each long silence.
    """

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
        from rich.text import Text

        progress = self

        class Amount(ProgressColumn):
            def render(self, task: "Task") -> Text:
                return Text(progress.amount(task))

        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(30), Amount())
        self._bars = Progress(*columns, console=STDERR, transient=True, disable=not STDERR.is_terminal)
        self._partitions: TaskID | None = None
        self._task: TaskID | None = None
        self._time = RemainingTime(())
        self._is_over = threading.Event()
        self._has_logged = False

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

    def waiting(self, holder: str) -> None:
        """Log that another process holds the warehouse, and show the wait as a task."""
        self._has_logged = True
        log_wait(holder)
        self.start("wait for the warehouse", 1)

    def planned(self, partitions: int, stages: "Sequence[Stage]" = ()) -> None:
        """Show a bar for the partitions to compute."""
        self.done()
        self._time = RemainingTime(stages)
        self._partitions = self._bars.add_task("partitions", total=partitions, tokens=0)

    def begins(self, name: str, step: str) -> None:
        """Show the stage of a partition, and log the one before."""
        self._end_stage()
        self._time.begin(name, step)
        if self._partitions is not None:
            self._bars.update(self._partitions, description=escape_control(f"{name}: {step}"))

    def computed(self, name: str, seconds: float) -> None:
        """Log a finished partition and advance the bar."""
        self._end_stage()
        self.shared(name, seconds)
        self._time.drop(name)
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
        self._time.fail(failure.name)
        self._step()

    def amount(self, task: "Task") -> str:
        """Return what a bar has done: steps, tokens per second, the time since its start and the time left."""
        parts = [f"{task.completed:.0f} of {task.total:.0f}"] if task.total is not None else []
        if task.id == self._partitions:
            parts[0] += " partitions"
        elapsed = task.elapsed or 0.0
        if elapsed and task.total and (tokens := task.fields["tokens"] * task.completed / task.total):
            parts.append(f"{tokens / elapsed:,.0f} tokens/s")
        parts.append(str(timedelta(seconds=round(elapsed))))
        return ", ".join([*parts, self._left_in_words()] if task.id == self._partitions else parts).removesuffix(", ")

    def _left(self) -> float:
        """Return the seconds that are left; by its own bar, the current task takes as long again for what it lacks."""
        task = next((task for task in self._bars.tasks if task.id == self._task), None)
        if task is None or not task.total or task.completed < _MIN_SHARE * task.total:
            return self._time.seconds()
        return self._time.seconds((task.elapsed or 0.0) * (task.total - task.completed) / task.completed)

    def _left_in_words(self) -> str:
        """Return how long the rest takes; empty if that is not known, or the estimate is used up."""
        left = self._left() if self._time.total else 0.0
        if left < _MIN_LEFT_SECONDS:
            return ""
        now = datetime.now().astimezone()
        end = now + timedelta(seconds=left)
        until = f"{end:%H:%M}" if end.date() == now.date() else f"{end:%Y-%m-%d %H:%M}"
        return f"about {left:.0f} s left" if left < 100 else f"about {left / 60:.0f} min left, until {until}"

    def _end_stage(self) -> None:
        """End the stage before; in a pipe or a log, log it if it took long enough."""
        ended = self._time.end()
        if ended is not None and ended[1] >= _MIN_STAGE_SECONDS and not STDERR.is_terminal:
            stage, seconds = ended
            self._has_logged = True
            left = ", ".join(filter(None, [f"{self._time.done} of {self._time.total} stages", self._left_in_words()]))
            log(f"{stage.name}: {stage.step}: {seconds:.1f} s ({left})")

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
            parts = [task.description] if task else []
            parts += [f"{task.completed:.0f} of {task.total:.0f}"] if task and task.total is not None else []
            log(": ".join(filter(None, ["still at work", ", ".join(filter(None, [*parts, self._left_in_words()]))])))

    def _step(self) -> None:
        if self._partitions is not None:
            self._bars.advance(self._partitions)
