"""The places where units of work are computed: this process or a Ray cluster."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prunescope.assets.execution.ray.config import RayClusterConfig
from prunescope.assets.execution.task import Event, ModelTask, StepFailed
from prunescope.pipelines.core.progress import Progress

if TYPE_CHECKING:  # needs torch
    from prunescope.assets.execution.model_session import ModelSession


@dataclass
class Engine:
    """A place to compute, which keeps a model loaded from one task to the next.

    Attributes:
        cluster: where to compute all but `speed`, which is measured on this machine; None: this process computes all.
        log: receives what the user should know of lost workers.
    """

    cluster: RayClusterConfig | None
    log: Callable[[str], None]
    _session: "ModelSession | None" = field(default=None, init=False)

    def events(self, tasks: Sequence[ModelTask], progress: Progress) -> Iterator[tuple[ModelTask, Event]]:
        """Compute the tasks; yield each event with its task.

        Raises:
            InputError: the cluster does not fit.
            ComputationError: the cluster lost all of its workers.
        """
        if self.cluster is not None:
            from prunescope.assets.execution.ray.pool import compute_on_ray

            away = [task.only(lambda _, step: step != "speed") for task in tasks]
            failed = set[tuple[str, str | None]]()
            for task, event in compute_on_ray([task for task in away if task.steps], self.cluster, self.log):
                if isinstance(event, StepFailed) and event.step != "search":
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
        from prunescope.assets.execution.compute import compute
        from prunescope.assets.execution.model_session import ModelSession

        self._session = self._session or ModelSession()
        self._session.progress = progress
        for task in tasks:
            if task.steps:
                for event in compute(task, self._session):
                    yield task, event

    def release(self) -> None:
        """Free the model that is loaded here."""
        if self._session is not None:
            self._session.release()
