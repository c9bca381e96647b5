"""The run of a study: finds stale partitions, has them computed model by model, and records them in Dagster."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from prunescope.assets.execution.task import ModelTask, StepBegun, StepFailed, TableWritten
from prunescope.assets.planning.fingerprints import find_model
from prunescope.assets.planning.freshness import study_partitions
from prunescope.assets.planning.steps import STEPS, VARIANT_TABLES, steps_writing
from prunescope.assets.planning.work_plan import Plan, StudyRequest, make_plan
from prunescope.assets.runs.outcome import ANSWERS_NAME, Failure, Listener, RunResult, refused
from prunescope.pipelines.studies import Study
from prunescope.warehouse.storage.partition_store import Store

if TYPE_CHECKING:  # Dagster and torch
    from dagster import AssetCheckEvaluation, AssetMaterialization, OpExecutionContext

    from prunescope.assets.execution.engines import Engine

    DagsterEvents = Iterator[AssetMaterialization | AssetCheckEvaluation]
    # Answers questions, draws figures and writes the report; returns its seconds, and its failure if there was one.
    Answer = Callable[[OpExecutionContext, StudyRequest, Store], tuple[float, Failure | None]]

# Errors that the user can fix.
INPUT_ERRORS = {"InputError", "WarehouseError"}


@dataclass
class StudyRun:
    """One run of a study; attributes and errors as the arguments of `run_study`."""

    request: StudyRequest
    store: Store
    cache: Path
    listener: Listener
    replace: bool = False
    tables: Collection[str] | None = None
    interrupted: Callable[[], bool] = lambda: False
    error: Exception | None = None
    _computed: list[str] = field(default_factory=list)
    _failures: list[Failure] = field(default_factory=list)
    # By partition, the steps that are not finished and the seconds of those that are.
    _unfinished: dict[str, set[str]] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Load the study, and leave out the models that cannot be found."""
        self.study: Study = self.request.load()
        self._refused: dict[str, Failure] = {}
        self._refuse(lambda name: find_model(self.study, name, self.cache, self.listener))

    @property
    def result(self) -> RunResult:
        """Return what was computed and what failed."""
        return RunResult(self.study, tuple(self._computed), (*self._refused.values(), *self._failures))

    def plan(self) -> Plan:
        """Return the work to do."""
        return make_plan(
            self.study,
            self.store,
            self.cache,
            self.listener,
            replace=self.replace,
            tables=self.tables,
            without=self._refused,
        )

    def events(self, context: "OpExecutionContext", engine: "Engine", answer: "Answer") -> "DagsterEvents":
        """Compute all that is missing or stale; yield the events of each partition as it is written.

        The caller holds the writer lock of the warehouse, so the plan is made again: the process that held it before
        may have computed the same. A failed partition does not stop the others.
        """
        try:
            plan = self.plan()
            if plan.works:
                self._check({work.model for work in plan.works})
                plan = self.plan()
            if not plan.is_empty:
                yield from self._computed_events(context, engine, plan, answer)
        except Exception as error:
            self.error = error
            raise

    def _check(self, due: Collection[str]) -> None:
        """Refuse models with work that do not fit the study, before anything is computed."""
        from prunescope.pipelines.planning.preflight import check_study

        # Tasks and retrieval are neither fetched nor checked if their tables were not requested.
        requested = set(self.tables or VARIANT_TABLES)
        unused: dict[str, object] = {
            name: () for name in ("tasks", "retrieval") if not requested & set(STEPS[name].tables)
        }
        search = self.study.search
        if "tasks" in unused and search is not None and requested & set(STEPS["search"].tables):
            # A search may measure the answers to one of them.
            unused["tasks"] = tuple(task for task in self.study.tasks if search.objective == f"task:{task.name}")
        checked = self.study.model_copy(update=unused)

        def check(name: str) -> None:
            if name in due:
                check_study(checked, find_model(self.study, name, self.cache, self.listener).folder)

        self._refuse(check)

    def _refuse(self, check: Callable[[str], object]) -> None:
        """Leave out the models for which the check raises an error."""
        left = [model.name for model in self.study.models if model.name not in self._refused]
        self._refused |= refused(left, check, self.listener)

    def _computed_events(
        self, context: "OpExecutionContext", engine: "Engine", plan: Plan, answer: "Answer"
    ) -> "DagsterEvents":
        from prunescope.assets.defs.materialization_events import MaterializationEvents
        from prunescope.assets.defs.partitions import register_study
        from prunescope.assets.defs.recipe_asset import unpublished
        from prunescope.assets.instance.instance import has_lost_two_processes

        self.listener.planned(len(plan.works) + plan.is_report_stale)
        register_study(context.instance, self.study)
        yield from unpublished(context.instance, self.study.recipes)
        tasks = list(self._tasks(plan, halves_batches=has_lost_two_processes(context.run.tags)))
        recorded = MaterializationEvents(context.instance)
        found = [model.name for model in self.study.models if model.name not in self._refused]
        models = [find_model(self.study, name, self.cache, self.listener) for name in found]
        yield from recorded.missing(self.study, models, self.store)
        for task, event in engine.events(tasks, self.listener):
            if isinstance(event, StepBegun):
                self.listener.begins(task.name(event.recipe, event.step), event.step)
            elif isinstance(event, TableWritten):
                yield from recorded.written(event, task.model)
                self._written(task.name(event.recipe, event.step), event)
            else:
                self._failed(task, event)
            if self.interrupted():  # what is written is recorded first
                raise KeyboardInterrupt
        engine.release()
        if plan.is_report_stale and study_partitions(self.store, self.study):
            self.listener.begins(ANSWERS_NAME, "answers")
            seconds, failure = answer(context, self.request, self.store)
            if failure is None:
                self._computed.append(ANSWERS_NAME)
                self.listener.computed(ANSWERS_NAME, seconds)
            else:
                self._failures.append(failure)
                self.listener.failed(failure)

    def _tasks(self, plan: Plan, *, halves_batches: bool) -> Iterator[ModelTask]:
        """Yield a task for each model with work."""
        steps = defaultdict[str, list[tuple[str | None, str]]](list)
        for work in plan.works:
            names = [step.name for step in steps_writing(work.tables)]
            self._unfinished[work.name], self._seconds[work.name] = set(names), 0.0
            steps[work.model] += [(work.recipe.name if work.recipe else None, name) for name in names]
        for model, wanted in steps.items():
            yield ModelTask(self.request, str(self.store.root), model, tuple(wanted), halves_batches)

    def _written(self, name: str, event: TableWritten) -> None:
        if event.table != STEPS[event.step].tables[-1]:
            return
        self._unfinished[name].discard(event.step)
        self._seconds[name] += event.seconds
        if not self._unfinished[name]:
            self._computed.append(name)
            self.listener.computed(name, self._seconds[name])

    def _failed(self, task: ModelTask, event: StepFailed) -> None:
        is_input = event.kind in INPUT_ERRORS
        message = event.message if is_input or not event.kind else f"{event.kind}: {event.message}"
        failure = Failure(task.name(event.recipe, event.step), message, is_input, event.traceback)
        self._failures.append(failure)
        self.listener.failed(failure)
