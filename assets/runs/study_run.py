"""The run of a study: finds stale partitions, refuses models that do not fit, and tells its listener what is computed.

It imports neither Dagster nor torch, so a run with nothing to do ends fast; `dagster_job` computes and records.
"""

import traceback
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prunescope.assets.execution.error_transport import KINDS, error_line, is_error
from prunescope.assets.execution.task import Event, ModelTask, StepBegun, StepFailed
from prunescope.assets.instance import settings
from prunescope.assets.planning import freshness
from prunescope.assets.planning.fingerprints import DenseModel, find_model
from prunescope.assets.planning.steps import STEPS, VARIANT_TABLES, steps_writing
from prunescope.assets.planning.work_plan import Plan, StudyRequest, model_work
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import Progress
from prunescope.pipelines.studies import Study
from prunescope.warehouse.maintenance.verified_files import VerifiedFiles
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES

# The name of the answers where partitions have theirs.
ANSWERS_NAME = "questions, figures and report"
# Errors that the user can fix.
INPUT_ERRORS = {"InputError", "WarehouseError"}


class Listener(Progress, Protocol):
    """The receiver of a study's progress events."""

    def planned(self, partitions: int) -> None:
        """Receive the number of partitions to compute."""

    def begins(self, name: str, step: str) -> None:
        """Receive that a step of a partition begins; on a cluster, only when its task has ended."""

    def computed(self, name: str, seconds: float) -> None:
        """Receive a finished partition; its seconds leave out what the dense model takes, which all variants share."""

    def note(self, message: str) -> None:
        """Receive a message to the user that stops nothing."""

    def failed(self, name: str, message: str) -> None:
        """Receive a failed partition; the run goes on with the others."""


@dataclass(frozen=True)
class Failure:
    """A partition that could not be computed.

    Attributes:
        name: `model`, `model search`, `model@recipe` or the report.
        message: the error and how to fix it.
        is_input: whether the user's input caused the error.
    """

    name: str
    message: str
    is_input: bool
    traceback: str = ""


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes:
        computed: names of the partitions that were computed.
    """

    study: Study
    computed: Sequence[str] = ()
    failures: Sequence[Failure] = ()


@dataclass
class StudyRun:
    """One run of a study; attributes and errors as the arguments of `run_study`."""

    request: StudyRequest
    store: Store
    listener: Listener
    replace: bool = False
    tables: Collection[str] | None = None
    interrupted: Callable[[], bool] = lambda: False
    error: Exception | None = None
    _computed: list[str] = field(default_factory=list)
    _failures: list[Failure] = field(default_factory=list)
    # By partition, the seconds of its steps; None of one that is not finished.
    _seconds: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Load the study, and leave out the models that cannot be found."""
        self.study: Study = self.request.load()
        self._refused: dict[str, Failure] = {}
        self._refuse(self._model)

    @property
    def result(self) -> RunResult:
        """Return what was computed and what failed."""
        return RunResult(self.study, tuple(self._computed), (*self._refused.values(), *self._failures))

    def models(self) -> list[DenseModel]:
        """Return the models that were found and fit the study."""
        return [self._model(spec.name) for spec in self.study.models if spec.name not in self._refused]

    def plan(self) -> Plan:
        """Return the work to do; nothing of models that were refused, and no report if only some tables are wanted.

        Raises:
            InputError: a model cannot be found, or another study's partition is in the way.
            WarehouseError: the warehouse cannot be read.
        """
        study, store = self.study, self.store
        with VerifiedFiles(store.root, settings.cache_folder()) as files:
            works = [
                work
                for dense in self.models()
                for work in model_work(study, store, dense, files, replace=self.replace, tables=self.tables)
                if work.tables
            ]
            is_report_stale = self.tables is None and (
                bool(works)
                or any(files.is_damaged(partition.path) for partition in store.partitions(TABLES["paper_reference"]))
                or freshness.stale_report(store, study) is not None
            )
        return Plan(works, is_report_stale, len(files.unread))

    def checked_plan(self) -> Plan:
        """Return the work to do, without models with work that do not fit the study; they are failures.

        The caller holds the writer lock of the warehouse, so the plan is made again: the process that held it before
        may have computed the same.
        """
        plan = self.plan()
        if not plan.works:
            return plan
        from prunescope.pipelines.models.chat_template import set_template_arguments
        from prunescope.pipelines.models.meta_model import load_meta_model
        from prunescope.pipelines.planning.preflight import check_outline

        # Tasks and retrieval are neither fetched nor checked if their tables were not requested.
        requested = set(self.tables or VARIANT_TABLES)
        unused: dict[str, object] = {
            name: () for name in ("tasks", "retrieval") if not requested & set(STEPS[name].tables)
        }
        search = self.study.search
        if "tasks" in unused and search is not None and requested & set(STEPS["search"].tables):
            # A search may measure the answers to one of them.
            unused["tasks"] = tuple(task for task in self.study.tasks if search.objective == f"task:{task.name}")
        checked, due = self.study.model_copy(update=unused), {work.model for work in plan.works}

        def check(name: str) -> None:
            if name in due:
                dense = self._model(name)
                outline = load_meta_model(dense.folder)
                set_template_arguments(outline.tokenizer, dense.spec.template_arguments)
                check_outline(checked, outline, checked.tasks)

        return self.plan() if self._refuse(check) else plan

    def tasks(self, plan: Plan, *, halves_batches: bool) -> Iterator[ModelTask]:
        """Yield a task for each model with work."""
        steps = defaultdict[str, list[tuple[str | None, str]]](list)
        for work in plan.works:
            names = [step.name for step in steps_writing(work.tables)]
            self._seconds[work.name] = dict.fromkeys(names)
            steps[work.model] += [(work.recipe.name if work.recipe else None, name) for name in names]
        for model, wanted in steps.items():
            yield ModelTask(self.request, str(self.store.root), model, tuple(wanted), halves_batches)

    def hear(self, task: ModelTask, event: Event) -> None:
        """Tell the listener what a task has begun, written or failed at."""
        name = task.name(event.recipe, event.step)
        if isinstance(event, StepBegun):
            self.listener.begins(name, event.step)
        elif isinstance(event, StepFailed):
            is_input = event.kind in INPUT_ERRORS
            message = event.message if is_input or not event.kind else f"{event.kind}: {event.message}"
            self.failed(Failure(name, message, is_input, event.traceback))
        elif event.table == STEPS[event.step].tables[-1]:
            seconds = self._seconds[name]
            seconds[event.step] = event.seconds
            if None not in seconds.values():
                self.computed(name, sum(filter(None, seconds.values())))

    def computed(self, name: str, seconds: float) -> None:
        """Count a partition, or the answers, as computed."""
        self._computed.append(name)
        self.listener.computed(name, seconds)

    def failed(self, failure: Failure) -> None:
        """Count a failure; the run goes on with the others."""
        self._failures.append(failure)
        self.listener.failed(failure.name, failure.message)

    def _model(self, name: str) -> DenseModel:
        return find_model(self.study, name, self.listener)

    def _refuse(self, check: Callable[[str], object]) -> bool:
        """Leave out the models for which the check raises an error; return whether there are any."""
        left = [model.name for model in self.study.models if model.name not in self._refused]
        found = refused(left, check, self.listener)
        self._refused |= found
        return bool(found)


def refused(models: Sequence[str], check: Callable[[str], object], listener: Listener) -> dict[str, Failure]:
    """Call a function with the name of each model; return the failures of those for which it raises any error.

    The listener receives each failure.

    Raises:
        InputError, WarehouseError, ComputationError: the error of the first model, if every model has one.
    """
    failures, errors = dict[str, Failure](), list[BaseException]()
    for name in models:
        try:
            check(name)
        except BaseException as error:
            if not is_error(error):
                raise
            errors.append(error)
            failures[name] = Failure(name, error_line(error), isinstance(error, InputError), traceback.format_exc())
    if errors and len(errors) == len(models):
        if isinstance(errors[0], (*KINDS.values(), OSError)):
            raise errors[0]
        raise ComputationError(f"{models[0]} cannot be read: {error_line(errors[0])}") from errors[0]
    for failure in failures.values():
        listener.failed(failure.name, failure.message)
    return failures
