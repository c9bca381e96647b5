"""The places where units of work are computed: this process, a child process, or a Ray cluster."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from prunescope.assets.execution.child_process import ChildProcess
from prunescope.assets.execution.error_transport import WorkerLostError
from prunescope.assets.execution.ray.config import RayClusterConfig
from prunescope.assets.execution.task import Event, ModelTask, StepFailed, TableWritten
from prunescope.assets.planning.steps import STEPS
from prunescope.pipelines.core.progress import Progress

if TYPE_CHECKING:  # needs torch
    from prunescope.assets.execution.model_session import ModelSession

EngineKind = Literal["child", "inline", "ray"]
# Child processes that may be lost during the same step; the last attempt halves its batches.
_ATTEMPTS = 3


@dataclass
class Engine:
    """A place to compute, which keeps a model loaded from one task to the next.

    Attributes:
        kind: `inline`: this process. `child`: a child process. `ray`: the cluster, but `speed`, which is measured on
            this machine, in a child process.
        cluster: of the kind `ray`.
        log: receives what the user should know of lost processes.
    """

    kind: EngineKind
    cluster: RayClusterConfig | None
    log: Callable[[str], None]
    _session: "ModelSession | None" = field(default=None, init=False)
    _child: ChildProcess = field(default_factory=ChildProcess, init=False)

    def events(self, tasks: Sequence[ModelTask], progress: Progress) -> Iterator[tuple[ModelTask, Event]]:
        """Compute the tasks; yield each event with its task.

        Raises:
            InputError, WarehouseError: as `compute`, or the cluster does not fit.
            ComputationError: the cluster lost all of its workers.
            WorkerLostError: the child process was lost again and again.
        """
        here = self._in_this_process if self.kind == "inline" else self._in_child
        if self.kind == "ray" and self.cluster is not None:
            from prunescope.assets.execution.ray.pool import compute_on_ray

            away = [task.of(lambda _, step: step != "speed") for task in tasks]
            failed = set[str]()
            for task, event in compute_on_ray([task for task in away if task.wanted], self.cluster, self.log):
                if isinstance(event, StepFailed):
                    failed |= {task.name(event.recipe, event.step), *([task.model] if event.recipe is None else [])}
                yield task, event
            tasks = [
                task.of(
                    lambda recipe, step, task=task: (
                        step == "speed" and not {task.model, task.name(recipe, step)} & failed
                    )
                )
                for task in tasks
            ]
        for task in tasks:
            if task.wanted:
                for event in here(task, progress):
                    yield task, event

    def release(self) -> None:
        """Free the model that is loaded here or in the child process."""
        self._child.end()
        if self._session is not None:
            self._session.release()

    def _in_this_process(self, task: ModelTask, progress: Progress) -> Iterator[Event]:
        from prunescope.assets.execution.compute import compute
        from prunescope.assets.execution.model_session import ModelSession

        self._session = self._session or ModelSession()
        self._session.progress = progress
        yield from compute(task, self._session)

    def _in_child(self, task: ModelTask, progress: Progress) -> Iterator[Event]:
        """Compute in the child process; a new one goes on with what a lost one had not finished."""
        finished, lost = set[tuple[str | None, str]](), 0
        while True:
            left = task.of(lambda recipe, step, done=frozenset(finished): (recipe, step) not in done)
            left = replace(left, halves_batches=lost == _ATTEMPTS - 1)
            try:
                for event in self._child.compute(left, progress):
                    yield event
                    if isinstance(event, TableWritten) and event.table == STEPS[event.step].tables[-1]:
                        finished.add((event.recipe, event.step))
                    if isinstance(event, StepFailed):
                        finished |= {
                            (wanted.recipe, step)
                            for wanted in task.wanted
                            if event.recipe in {None, wanted.recipe}
                            for step in wanted.steps
                        }
            except WorkerLostError as error:
                has_advanced = any((wanted.recipe, step) in finished for wanted in left.wanted for step in wanted.steps)
                lost = 1 if has_advanced else lost + 1
                if lost == _ATTEMPTS:
                    raise
                self.log(f"{error}; another one goes on")
            else:
                return
