"""The resource that computes a run's tables: in the run's own process or on a Ray cluster."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Literal, Self

from dagster import (
    AssetExecutionContext,
    AssetKey,
    Config,
    ConfigurableResource,
    InitResourceContext,
    MaterializeResult,
    ResourceDependency,
)
from pydantic import Field, PrivateAttr

from prunescope.assets import settings
from prunescope.assets.defs.materialization_events import MaterializationEvents
from prunescope.assets.defs.metadata import materialized
from prunescope.assets.defs.recipe_asset import publish
from prunescope.assets.defs.resources import StudyResource, WarehouseResource
from prunescope.assets.execution.engines import Engine
from prunescope.assets.execution.ray.config import RayClusterConfig
from prunescope.assets.execution.task import ModelTask, StepFailed, TableWritten
from prunescope.assets.instance.instance import has_lost_two_processes
from prunescope.assets.planning.fingerprints import find_model
from prunescope.assets.planning.freshness import programs_ran
from prunescope.assets.planning.steps import STEPS
from prunescope.pipelines.core import scratch_directory
from prunescope.pipelines.core.log_progress import LogProgress
from prunescope.pipelines.core.progress import SILENT
from prunescope.warehouse.tables import TABLES


class RayConfig(Config):
    """A Ray cluster."""

    address: str = Field(
        default=settings.ray_address() or "auto",
        description="`auto`, `local`, HOST:PORT of its head, or ray://HOST:10001; default: RAY_ADDRESS, else `auto`.",
    )
    gpus_per_task: float | None = Field(
        default=None, ge=0, description="GPUs per worker; default: one if the cluster has any."
    )
    cpus_per_task: int | None = Field(
        default=None,
        ge=1,
        description="CPUs and threads per worker; default: those of its machine, divided among the machine's workers.",
    )


class EngineResource(ConfigurableResource):
    """The place where a run's tables are computed: the run's process or a Ray cluster."""

    warehouse: ResourceDependency[WarehouseResource]
    kind: Literal["inline", "ray"] = Field(
        default="ray" if settings.ray_address() else "inline",
        description="`inline`: in the process of the run; if it is lost, as for lack of memory, Dagster starts the run "
        "again. `ray`: on a Ray cluster, in workers that end with the run. Default: `ray` if RAY_ADDRESS is set, else "
        "`inline`.",
    )
    ray: RayConfig = Field(default=RayConfig(), description="The cluster for `ray`.")

    _engine: Engine = PrivateAttr()

    @contextmanager
    def yield_for_execution(self, context: InitResourceContext) -> Generator[Self]:
        """Hold the writer lock for the run, and remove what killed processes left.

        The run takes the lock before its steps take slots in Dagster's pool, so a step that has a slot never waits for
        the lock.
        """
        log = context.log.info if context.log else print
        with self.warehouse.locked(log) as store:
            store.clean_temporaries()
            scratch_directory.clean()
            settings.let_waiting_threads_sleep()
            self._engine = Engine(RayClusterConfig(**self.ray.model_dump()) if self.kind == "ray" else None, log)
            try:
                yield self
            finally:
                self._engine.release()

    @property
    def engine(self) -> Engine:
        """Return the engine of the run."""
        return self._engine

    def run_step(self, context: AssetExecutionContext, step: str, study: StudyResource) -> Iterator[MaterializeResult]:
        """Compute one step of the run's partition and yield a result for each table as it is written.

        Raises:
            InputError, ComputationError, WarehouseError: the step failed.
        """
        key = context.partition_key
        # Parsed from text: a run that was launched with only the tag of the whole key has no MultiPartitionKey.
        model, _, name = key.partition("|")
        store, recipe = self.warehouse.store(), name or None
        request = study.request(store, context.instance, model, recipe)
        loaded = request.load()
        if not STEPS[step].is_requested_by(loaded):
            context.log.warning(f"study {loaded.name} does not request {step}; the tables stay as they are")
            return
        if step == "tasks":
            dense = find_model(loaded, model, settings.cache_folder(), SILENT)
            if programs_ran(store, loaded, dense, loaded.recipe(name)):
                context.log.warning("programs ran for these scores, and this run allows none; the scores stay")
                return
        task = ModelTask(request, str(store.root), model, ((recipe, step),), has_lost_two_processes(context.run.tags))
        for _, event in self.engine.events([task], LogProgress(context.log.info, task.title)):
            if isinstance(event, StepFailed):
                raise event.error
            if isinstance(event, TableWritten):
                if step == "variants" and recipe is not None:
                    publish(context, loaded.recipe(recipe))
                if AssetKey(event.table) in context.selected_asset_keys:
                    yield materialized(TABLES[event.table], event)
                else:
                    context.log_event(MaterializationEvents(context.instance).materialization(event, model))
