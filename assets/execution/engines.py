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

            away = [task.only(lambda _, step: step != "speed") for task in tasks]
            failed = set[tuple[str, str | None]]()
            for task, event in compute_on_ray([task for task in away if task.steps], self.cluster, self.log):
                if isinstance(event, StepFailed):
                    failed.add((task.model, event.recipe))
                yield task, event
            tasks = [
                task.only(
                    lambda recipe, step, model=task.model: (
                        step == "speed" and not {(model, None), (model, recipe)} & failed
                    )
                )
                for task in tasks
            ]
        for task in tasks:
            if task.steps:
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
            left = tuple(step for step in task.steps if step not in finished)
            part = replace(task, steps=left, halves_batches=lost == _ATTEMPTS - 1)
            try:
                for event in self._child.compute(part, progress):
                    yield event
                    if isinstance(event, TableWritten) and event.table == STEPS[event.step].tables[-1]:
                        finished.add((event.recipe, event.step))
                    if isinstance(event, StepFailed):
                        finished |= {step for step in task.steps if event.recipe in {None, step[0]}}
            except WorkerLostError as error:
                lost = lost + 1 if finished.isdisjoint(left) else 1
                if lost == _ATTEMPTS:
                    raise
                self.log(f"{error}; another one goes on")
            else:
                return
