"""The resource that runs the steps: in a worker process, in the run itself, or on a Ray cluster."""

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

# Dagster has no public name for the tag; the test of runs without a named study depends on it.
from dagster._core.storage.tags import PARTITION_NAME_TAG
from pydantic import Field, PrivateAttr

from prunescope.assets import settings
from prunescope.assets.defs.metadata import materialized, skipped_checks
from prunescope.assets.defs.recipe_asset import publish
from prunescope.assets.defs.resources import StudyResource, WarehouseResource
from prunescope.assets.execution.error_transport import WorkerLostError, is_transient
from prunescope.assets.execution.local.client import compute_in_worker
from prunescope.assets.execution.model_cache import MODEL_CACHE
from prunescope.assets.execution.ray.config import RayClusterConfig
from prunescope.assets.execution.ray.worker_pool import WorkerPool, shared_pool
from prunescope.assets.execution.task import ComputeTask, TaskResult
from prunescope.assets.instance.instance import STUDY_TAG, WAREHOUSE_TAG, writer_lock
from prunescope.assets.instance.pool_wait import watch_pool_waits
from prunescope.assets.planning.steps import SPEED_TABLE
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.pipelines.core.log_progress import LogProgress
from prunescope.pipelines.core.progress import Progress, ProgressGroup
from prunescope.warehouse.tables import TABLES

# After a transient error.
_RETRIES, _RETRY_SECONDS = 2, 2


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

    def without_dagster(self) -> RayClusterConfig:
        """Return the same configuration without Dagster's class."""
        return RayClusterConfig(self.address, self.gpus_per_task, self.cpus_per_task)


class EngineResource(ConfigurableResource):
    """The engine that computes a run's steps: this process, a worker process or a Ray cluster. A run writes alone.

    `prunescope run` ignores `kind`: it computes in its own process, with the model that it has loaded.
    """

    warehouse: ResourceDependency[WarehouseResource]
    kind: Literal["warm", "inline", "ray"] = Field(
        default="ray" if settings.ray_address() else "warm",
        description="`warm`: in the warehouse's worker process, which keeps a model loaded between runs and ends some "
        "minutes after the last one. `inline`: in the process of the run. `ray`: on a machine of a Ray cluster, in a "
        "worker that ends with the run; job `study` uses the whole cluster. Default: `ray` where RAY_ADDRESS is set, "
        "else `warm`.",
    )
    ray: RayConfig = Field(default=RayConfig(), description="The cluster for `ray`.")
    beside: list[str] = Field(
        default=[],
        description="Recipes that other runs will compute next; work that they share with this run is done once.",
    )

    _pool: WorkerPool | None = PrivateAttr(default=None)
    # Names of tasks that lost their worker, probably for lack of memory; steps and retries share this process.
    _lost: set[str] = PrivateAttr(default_factory=set)

    @contextmanager
    def yield_for_execution(self, context: InitResourceContext) -> Generator[Self]:
        """Hold the writer lock for the run.

        The run takes the lock before its steps take slots in Dagster's pool, so a step that has a slot never waits for
        the lock.
        """
        store = self.warehouse.store()
        local = store.local(settings.cache_folder())
        with ExitStack() as stack:
            log = context.log.info if context.log else print
            stack.enter_context(
                writer_lock(
                    local, lambda holder: log(f"another run uses this warehouse; waiting for {holder}"), store.url
                )
            )
            if context.instance and not MODEL_CACHE.is_claimed:  # else the command line watches
                stack.enter_context(watch_pool_waits(context.instance, log))
            if self.kind == "ray":
                self._pool = stack.enter_context(shared_pool(self.ray.without_dagster(), log))
            yield self

    def run_step(
        self, context: AssetExecutionContext, step: str, study: StudyResource
    ) -> Iterator[MaterializeResult | AssetCheckResult]:
        """Compute a step of the run's partition and yield a result for each table as it is written.

        Raises:
            InputError, ComputationError, WarehouseError: as `compute`.
            RetryRequested: the error is transient.
        """
        key = context.partition_key
        # Parsed from text: a run that was launched with only the tag of the whole key has no MultiPartitionKey.
        model, _, name = key.partition("|")
        store, recipe = self.warehouse.store(), name or None

        def last_request(study_name: str) -> StudyRequest | None:
            tags = {STUDY_TAG: study_name, WAREHOUSE_TAG: str(store.root), PARTITION_NAME_TAG: str(key)}
            succeeded = RunsFilter(tags=tags, statuses=[DagsterRunStatus.SUCCESS])
            runs = context.instance.get_runs(succeeded, limit=1)
            return StudyResource.of_run(runs[0].run_config) if runs else None

        request = study.request(store, model, recipe, last_request)
        task = ComputeTask(step, request, str(store.root), model, recipe, tuple(self.beside))
        task = replace(task, halve_batch=task.name in self._lost)
        progress = ProgressGroup(LogProgress(context.log.info, task.name), MODEL_CACHE.progress)
        try:
            for result in self._results(task, progress):
                table = TABLES[result.table]
                if step == "variants" and recipe is not None:
                    publish(context, request.load().recipe(recipe))
                yield from skipped_checks(table) if result.is_skipped else [materialized(table, result)]
        except Exception as error:
            if isinstance(error, WorkerLostError):
                self._lost.add(task.name)
            if is_transient(error):
                raise RetryRequested(_RETRIES, _RETRY_SECONDS) from error
            raise

    def _results(self, task: ComputeTask, progress: Progress) -> Iterator[TaskResult]:
        # Speed is always measured on this machine, which is part of its fingerprint.
        if self._pool is not None and task.step != SPEED_TABLE:
            yield from self._pool.results(task)
        elif self.kind == "inline" or MODEL_CACHE.is_claimed:
            from prunescope.assets.execution.step_functions import compute

            with MODEL_CACHE.redirect_progress(progress):
                yield from compute(task, MODEL_CACHE)
        else:
            local = self.warehouse.store().local(settings.cache_folder())
            with writer_lock(local, lambda _: None) as lock:
                yield from compute_in_worker(task, progress, local, lock)
