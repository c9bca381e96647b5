"""The assets of the tables that studies fill, one multi-asset per step, and the resource that computes them."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    ConfigurableResource,
    InitResourceContext,
    MaterializeResult,
    ResourceDependency,
    multi_asset,
)
from pydantic import Field, PrivateAttr

from prunescope.assets.defs.log_progress import LogListener
from prunescope.assets.defs.metadata import check_specs, materialized, recorded, table_metadata
from prunescope.assets.defs.recipe_asset import MODELS, VARIANTS, publish
from prunescope.assets.defs.resources import StudyResource, WarehouseResource
from prunescope.assets.execution.compute import compute
from prunescope.assets.execution.model_session import ModelSession
from prunescope.assets.execution.task import Event, ModelTask, StepFailed, TableWritten
from prunescope.assets.instance import settings
from prunescope.assets.instance.instance import has_lost_two_processes
from prunescope.assets.planning.fingerprints import find_model
from prunescope.assets.planning.freshness import programs_ran
from prunescope.assets.planning.steps import CODE_VERSIONS, STEPS, Step
from prunescope.pipelines.core import scratch_directory
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.warehouse.tables import ABOUT, TABLES

GPU = "gpu"


class EngineResource(ConfigurableResource):
    """The place where a run's tables are computed: the run's process or a Ray cluster."""

    warehouse: ResourceDependency[WarehouseResource]
    address: str = Field(
        default=settings.ray_address() or "",
        description="Address of a Ray cluster: `auto`, `local`, HOST:PORT of its head, or ray://HOST:10001; default: "
        "RAY_ADDRESS. Empty: in the process of the run; if it is lost, as for lack of memory, Dagster starts the run "
        "again.",
    )
    gpus_per_task: float | None = Field(
        default=None, ge=0, description="GPUs of a task on the cluster; default: one if it has any."
    )
    cpus_per_task: int | None = Field(
        default=None,
        ge=1,
        description="CPUs and threads of a task on the cluster; default: those that belong to its GPUs, or all of the "
        "largest machine.",
    )

    _session: ModelSession = PrivateAttr(default_factory=ModelSession)

    @contextmanager
    def yield_for_execution(self, context: InitResourceContext) -> Generator[Self]:
        """Hold the writer lock for the run, and remove what killed processes left.

        The run takes the lock before its steps take slots in Dagster's pool, so a step that has a slot never waits for
        the lock.
        """
        with self.warehouse.locked(context.log.info if context.log else print) as store:
            store.clean_temporaries()
            scratch_directory.clean()
            settings.let_waiting_threads_sleep()
            try:
                yield self
            finally:
                self.release()

    def events(
        self, tasks: Sequence[ModelTask], progress: Progress, log: Callable[[str], None]
    ) -> Iterator[tuple[ModelTask, Event]]:
        """Compute models, one per task; yield each event with its task, or the part of it that was computed away.

        The cluster computes all but `speed`, which is measured on this machine. `log` receives what the user should
        know of the cluster.

        Raises:
            InputError: the cluster does not fit.
        """
        failed = set[tuple[str, str | None]]()
        if self.address:
            from prunescope.assets.execution.ray.tasks import compute_on_ray

            away = [task.only(lambda _, step: step != "speed") for task in tasks]
            parts = [task for task in away if task.steps]
            for task, event in compute_on_ray(parts, self.address, log, self.gpus_per_task, self.cpus_per_task):
                if isinstance(event, StepFailed) and event.step != "search":
                    failed.add((task.model, event.recipe))
                yield task, event
            tasks = [task.only(lambda _, step: step == "speed") for task in tasks]
        self._session.progress = progress
        for task in tasks:
            left = task.only(lambda recipe, _, model=task.model: not {(model, None), (model, recipe)} & failed)
            yield from ((task, event) for event in (compute(left, self._session) if left.steps else ()))

    def release(self) -> None:
        """Free the model that is loaded in this process."""
        self._session.release()

    def run_step(self, context: AssetExecutionContext, step: str, study: StudyResource) -> Iterator[MaterializeResult]:
        """Compute one step of the run's partition and yield a result for each table as it is written.

        Raises:
            InputError, ComputationError, WarehouseError: the step failed.
        """
        # Parsed from text: a run that was launched with only the tag of the whole key has no MultiPartitionKey.
        model, _, name = context.partition_key.partition("|")
        store, recipe = self.warehouse.store(), name or None
        request = study.request(store, context.instance, model, recipe, STEPS[step].tables[0])
        loaded = request.load()
        if not STEPS[step].is_requested_by(loaded):
            context.log.warning(f"study {loaded.name} does not request {step}; the tables stay as they are")
            return
        if step == "tasks":
            dense = find_model(loaded, model, SILENT)
            if programs_ran(store, loaded, dense, loaded.recipe(name)):
                context.log.warning("programs ran for these scores, and this run allows none; the scores stay")
                return
        task = ModelTask(request, str(store.root), model, ((recipe, step),), has_lost_two_processes(context.run.tags))
        own = task.name(recipe, step)
        listener = LogListener(context.log, own if step == "search" else f"{own} {step}")
        for _, event in self.events([task], listener, context.log.info):
            if isinstance(event, StepFailed):
                raise event.error
            if isinstance(event, TableWritten):
                if step == "variants" and recipe is not None:
                    publish(context, loaded.recipe(recipe))
                if AssetKey(event.table) in context.selected_asset_keys:
                    yield materialized(TABLES[event.table], event)
                else:
                    for logged in recorded(context.instance, event, model):
                        context.log_event(logged)


def table_assets() -> list[AssetsDefinition]:
    """Return the multi-asset of every step, in the order of the data flow."""
    return [_asset(step) for step in STEPS.values()]


def _asset(step: Step) -> AssetsDefinition:
    partitions = MODELS if step.is_of_model else VARIANTS

    @multi_asset(
        name=step.name,
        specs=[
            AssetSpec(
                table,
                group_name=step.group,
                kinds={"parquet", "pytorch"},
                description=f"{ABOUT[table]}\n\n{TABLES[table].grain}",
                deps=step.upstream,
                code_version=CODE_VERSIONS[table],
                metadata=table_metadata(TABLES[table]),
            )
            for table in step.tables
        ],
        check_specs=check_specs([TABLES[table] for table in step.tables], partitions),
        partitions_def=partitions,
        pool=GPU,
        # Without it Dagster wants the results of all checks, also of tables that a run leaves as they are.
        can_subset=True,
    )
    def computed(
        context: AssetExecutionContext, study: StudyResource, engine: EngineResource
    ) -> Iterator[MaterializeResult]:
        yield from engine.run_step(context, step.name, study)

    return computed
