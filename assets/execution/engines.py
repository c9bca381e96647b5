"""The places where units of work are computed: this process, the warehouse's worker process, or a Ray cluster."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prunescope.assets.execution.error_transport import WorkerLostError
from prunescope.assets.execution.local.client import compute_in_worker
from prunescope.assets.execution.ray.config import RayClusterConfig
from prunescope.assets.execution.task import Event, ModelTask, StepFailed, TableWritten
from prunescope.assets.instance.instance import writer_lock
from prunescope.assets.planning.steps import STEPS
from prunescope.pipelines.core.progress import Progress

if TYPE_CHECKING:  # needs torch
    from prunescope.assets.execution.model_session import ModelSession

EngineKind = Literal["warm", "inline", "ray"]
# Workers that may be lost during the same step; the last attempt halves its batches.
_ATTEMPTS = 3


@dataclass
class Engine:
    """A place to compute, which keeps a model loaded from one task to the next.

    Attributes:
        kind: `inline`: this process. `warm`: the warehouse's worker process. `ray`: the cluster, but `speed`, which is
            measured on this machine, in the worker process.
        local: the warehouse's folder on this machine.
        cluster: of the kind `ray`.
        log: receives what the user should know of lost workers.
    """

    kind: EngineKind
    local: Path
    cluster: RayClusterConfig | None
    log: Callable[[str], None]
    _session: "ModelSession | None" = field(default=None, init=False)

    def events(self, tasks: Sequence[ModelTask], progress: Progress) -> Iterator[tuple[ModelTask, Event]]:
        """Compute the tasks; yield each event with its task.

        Raises:
            InputError, WarehouseError: as `compute`, or the cluster does not fit.
            ComputationError: the cluster lost all of its workers.
            WorkerLostError: the worker was lost again and again, or could not be started.
        """
        here = self._in_this_process if self.kind == "inline" else self._in_worker
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
        """Free the model that this process has loaded."""
        if self._session is not None:
            self._session.release()

    def _in_this_process(self, task: ModelTask, progress: Progress) -> Iterator[Event]:
        from prunescope.assets.execution.compute import compute
        from prunescope.assets.execution.model_session import ModelSession

        self._session = self._session or ModelSession()
        self._session.progress = progress
        yield from compute(task, self._session)

    def _in_worker(self, task: ModelTask, progress: Progress) -> Iterator[Event]:
        """Compute in the worker process; a new one goes on with what a lost one had not finished."""
        finished, lost = set[tuple[str | None, str]](), 0
        while True:
            left = task.of(lambda recipe, step, done=frozenset(finished): (recipe, step) not in done)
            left = replace(left, halves_batches=lost == _ATTEMPTS - 1)
            try:
                with writer_lock(self.local, lambda _: None) as lock:
                    for event in compute_in_worker(left, progress, self.local, lock):
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
                self.log(f"{error}; another worker goes on")
            else:
                return
