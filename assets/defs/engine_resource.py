"""Where parts are computed, as run configuration, and how their reports become what Dagster records.

What is computed stands in `compute.py`.
"""

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Literal, Self

from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    Config,
    ConfigurableResource,
    DagsterRunStatus,
    InitResourceContext,
    MaterializeResult,
    ResourceDependency,
    RetryRequested,
    RunsFilter,
)
from dagster._core.storage.tags import PARTITION_NAME_TAG
from pydantic import Field, PrivateAttr

from prunescope.assets import settings
from prunescope.assets.defs.metadata import left_alone, materialized
from prunescope.assets.defs.recipe_asset import publish
from prunescope.assets.defs.resources import StudyResource, WarehouseResource
from prunescope.assets.execution.error_transport import WorkerLostError, is_transient
from prunescope.assets.execution.local.client import compute_in_worker
from prunescope.assets.execution.model_cache import LOADED
from prunescope.assets.execution.ray.config import RayClusterConfig
from prunescope.assets.execution.ray.worker_pool import WorkerPool, fleet_of
from prunescope.assets.execution.task import ComputeTask, TaskResult
from prunescope.assets.instance.instance import STUDY_TAG, WAREHOUSE_TAG, only_writer
from prunescope.assets.planning.fingerprints import SPEED_TABLE
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.pipelines.core.log_progress import LogProgress
from prunescope.pipelines.core.progress import Progress, ProgressGroup
from prunescope.warehouse.tables import TABLES

# Of what can pass later.
_RETRIES, _SECONDS_BETWEEN = 2, 2


class RayConfig(Config):
    """A Ray cluster."""

    address: str = Field(
        default=settings.ray_address() or "auto",
        description="`auto`, `local`, HOST:PORT of its head, or ray://HOST:10001; by default RAY_ADDRESS.",
    )
    gpus_per_task: float | None = Field(
        default=None, ge=0, description="GPUs of a worker; by default one where there are any."
    )
    cpus_per_task: int | None = Field(
        default=None, ge=1, description="CPUs and threads of a worker; by default a machine's, shared by its workers."
    )

    def place(self) -> RayClusterConfig:
        """The same without Dagster."""
        return RayClusterConfig(self.address, self.gpus_per_task, self.cpus_per_task)


class EngineResource(ConfigurableResource):
    """Where a run's parts are computed, by the only writer of the warehouse.

    `prunescope run` computes in its own process, with the model that it has loaded, whatever `kind` says.
    """

    warehouse: ResourceDependency[WarehouseResource]
    kind: Literal["warm", "inline", "ray"] = Field(
        default="ray" if settings.ray_address() else "warm",
        description="`warm`: in the warehouse's worker, which keeps a model loaded from run to run and ends some "
        "minutes after the last one. `inline`: in the process of the run. `ray`: on a machine of a Ray cluster, in a "
        "worker that ends with the run; job `study` takes the whole cluster. Where RAY_ADDRESS is set `ray`, else "
        "`warm`.",
    )
    ray: RayConfig = Field(default=RayConfig(), description="The cluster of `ray`.")
    beside: list[str] = Field(
        default=[],
        description="Recipes that other runs will ask for next, so that what they share is computed once.",
    )

    _fleet: WorkerPool | None = PrivateAttr(default=None)
    # Names of the parts that lost their worker, most likely to the memory; steps and retries share this process.
    _lost: set[str] = PrivateAttr(default_factory=set)

    @contextmanager
    def yield_for_execution(self, context: InitResourceContext) -> Generator[Self]:
        """Holds the warehouse for the run.

        Before any step waits for a place in a pool: whoever holds such a place never waits for the warehouse.
        """
        waiting = "another run is at work in this warehouse; waiting for it"
        store = self.warehouse.store()
        local = store.local(settings.cache_folder())
        with ExitStack() as stack:
            told = context.log.info if context.log else print
            stack.enter_context(only_writer(local, lambda: told(waiting), store.url))
            if self.kind == "ray":
                self._fleet = stack.enter_context(fleet_of(self.ray.place(), told))
            yield self

    def outcomes(
        self, context: AssetExecutionContext, step: str, study: StudyResource
    ) -> Iterator[MaterializeResult | AssetCheckResult]:
        """Computes a step of the run's partition, and tells Dagster of every table as it is written.

        Raises:
            InputError, ComputationError, WarehouseError: as `compute`.
            RetryRequested: what went wrong can pass.
        """
        key = context.partition_key
        # As text: a run that was asked for with the tag of the whole key alone has no other form of it.
        model, _, name = key.partition("|")
        store, recipe = self.warehouse.store(), name or None

        def remembered(study_name: str) -> StudyRequest | None:
            tags = {STUDY_TAG: study_name, WAREHOUSE_TAG: str(store.root), PARTITION_NAME_TAG: str(key)}
            made = RunsFilter(tags=tags, statuses=[DagsterRunStatus.SUCCESS])
            runs = context.instance.get_runs(made, limit=1)
            return StudyResource.of_run(runs[0].run_config) if runs else None

        request = study.request(store, model, recipe, remembered)
        part = ComputeTask(step, request, str(store.root), model, recipe, tuple(self.beside))
        part = replace(part, is_halved=part.name in self._lost)
        try:
            for report in self._computed(
                part, ProgressGroup(LogProgress(context.log.info, part.name), LOADED.progress)
            ):
                table = TABLES[report.table]
                if step == "variants" and recipe is not None:
                    publish(context, request.load().recipe(recipe))
                yield from left_alone(table) if report.is_left_alone else [materialized(table, report)]
        except Exception as error:
            if isinstance(error, WorkerLostError):
                self._lost.add(part.name)
            if is_transient(error):
                raise RetryRequested(_RETRIES, _SECONDS_BETWEEN) from error
            raise

    def _computed(self, part: ComputeTask, progress: Progress) -> Iterator[TaskResult]:
        # Times are those of this machine, as their fingerprint says.
        if self._fleet is not None and part.step != SPEED_TABLE:
            yield from self._fleet.reports(part)
        elif self.kind == "inline" or LOADED.is_claimed:
            from prunescope.assets.execution.step_functions import compute

            with LOADED.told_to(progress):
                yield from compute(part, LOADED)
        else:
            local = self.warehouse.store().local(settings.cache_folder())
            with only_writer(local, lambda: None) as lock:
                yield from compute_in_worker(part, progress, local, lock)
