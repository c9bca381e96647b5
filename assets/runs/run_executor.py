"""The execution of a study's plan through Dagster, in this process: one run per model, per variant, and for answers."""

import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from dagster import AssetKey, DagsterEvent, DagsterInstance

# Dagster has no public name for the tag; the test of runs that a sensor launched depends on it.
from dagster._core.storage.tags import USER_TAG

from prunescope.assets import settings
from prunescope.assets.defs import asset_definitions
from prunescope.assets.defs.automation_conditions import published_recipes
from prunescope.assets.defs.partitions import MODELS, RECIPES, register, variant_key
from prunescope.assets.defs.recipe_asset import published
from prunescope.assets.defs.reference_asset import write_published
from prunescope.assets.defs.resources import StudyResource
from prunescope.assets.execution.local.client import stop_worker
from prunescope.assets.execution.model_cache import MODEL_CACHE
from prunescope.assets.execution.ray.config import RayClusterConfig
from prunescope.assets.execution.signals import watch_interrupts
from prunescope.assets.instance.instance import STUDY_TAG, WAREHOUSE_TAG, open_instance, recover, require_space
from prunescope.assets.instance.pool_wait import watch_pool_waits
from prunescope.assets.planning.freshness import study_partitions
from prunescope.assets.planning.steps import PRUNING_TABLES, SPEED_TABLE, STEPS, steps_writing
from prunescope.assets.planning.work_plan import PartitionWork, Plan, StudyRequest, unfinished_folder
from prunescope.assets.runs.forecast import ANSWERS
from prunescope.assets.runs.outcome import Failure, Listener, RunResult
from prunescope.assets.runs.remaining_time import Stage
from prunescope.assets.watching.watch_list import make_models_folder
from prunescope.pipelines.core import scratch_directory
from prunescope.warehouse.catalogue.database import build_file
from prunescope.warehouse.storage.partition_store import Store

# Errors that the user can fix, by the names under which Dagster reports them.
_INPUT_ERRORS = {"InputError", "WarehouseError"}
# The views as a file for DuckDB's own tools; every run writes it again.
CATALOGUE = "_catalogue/prunescope.duckdb"


def execute(
    plan: Plan,
    request: StudyRequest,
    store: Store,
    listener: Listener,
    stages: Sequence[Stage],
    *,
    computes_here: bool,
    cluster: RayClusterConfig | None,
    launched_by: str,
) -> RunResult:
    """Compute everything in the plan; a failed partition does not stop the others.

    The caller holds the writer lock of the warehouse.

    Args:
        plan: the work to do.
        request: the study, as the runs' configuration names it.
        store: the warehouse.
        listener: receives the progress.
        stages: the stages with their predicted seconds.
        computes_here: whether this process computes rather than the warehouse's worker.
        cluster: the Ray cluster that computes instead, if any.
        launched_by: the launcher of the runs that the UI shows.

    Raises:
        InputError: the cluster cannot be reached, has no room, or its machines do not see the warehouse.
        ComputationError: the cluster lost all of its workers.
        WarehouseError: the disk is full.
        KeyboardInterrupt: SIGINT or SIGTERM arrived.
    """
    local = store.local(settings.cache_folder())
    require_space(local)
    make_models_folder(store)
    with open_instance(local) as instance, watch_interrupts() as interrupted:
        warehouse = str(store.root)
        recover(instance, warehouse, local)
        store.clean_temporaries()
        scratch_directory.clean()
        runs = _Runs(plan, request, store, listener, stages, instance, interrupted, cluster, launched_by)
        if computes_here:
            stop_worker(local)
        with (
            MODEL_CACHE.serving_runs(listener, listener.begins, claims=computes_here),
            watch_pool_waits(instance, listener.note, lambda run_id: recover(instance, warehouse, local, run_id)),
        ):
            runs.run_all()
        return RunResult(plan.study, runs.computed, runs.failures)


@dataclass
class _Runs:
    """The Dagster runs of one plan."""

    plan: Plan
    request: StudyRequest
    store: Store
    listener: Listener
    stages: Sequence[Stage]
    instance: DagsterInstance
    interrupted: Callable[[], bool]
    cluster: RayClusterConfig | None
    launched_by: str
    computed: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    # By partition, without work that several partitions share.
    _seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def run_all(self) -> None:
        """Publish the recipes, then compute model by model, so that each is loaded once, then the answers."""
        study = self.plan.study
        works = (*self.plan.models, *self.plan.variants, *self.plan.searches)
        self.listener.planned(len(works) + self.plan.is_report_stale, self.stages)
        register(self.instance, MODELS, [model.name for model in study.models])
        register(self.instance, RECIPES, [recipe.name for recipe in study.recipes])
        versions = published_recipes(self.instance, [recipe.name for recipe in study.recipes])
        for recipe in study.recipes:
            if versions.get(recipe.name) != recipe.hash:
                self.instance.report_runless_asset_event(published(recipe))
        if self.cluster is not None:
            self._run_on(self.cluster)
        else:
            for model in study.models:
                own = [work for work in self.plan.models if work.model == model.name]
                if all(self._model(work) for work in own):
                    self._variants([work for work in self.plan.variants if work.model == model.name])
                    for work in self.plan.searches:
                        if work.model == model.name:
                            self._model(work)
        MODEL_CACHE.release()
        if self.plan.is_report_stale and study_partitions(self.store, study):
            self._answers()

    def _answers(self) -> None:
        write_published(self.store)  # damaged ones would keep every question from opening the warehouse
        self.listener.begins(ANSWERS, "answers")
        self._run("answers", ANSWERS, None, None)
        build_file(self.store.root, self.store.root / CATALOGUE)

    def _run_on(self, cluster: RayClusterConfig) -> None:
        """Compute models and variants on a cluster; measure `speed` on this machine."""
        from prunescope.assets.execution.ray.schedule import RaySchedule
        from prunescope.assets.execution.ray.worker_pool import WorkerPool

        def record(work: PartitionWork, tables: tuple[str, ...], is_last: bool) -> bool:
            return self._variant(work, tables, (), is_last=is_last) if work.recipe else self._model(work)

        with WorkerPool(cluster, self.listener.note) as pool:
            root = str(self.store.root)
            RaySchedule(self.plan, self.request, root, pool, record, self._discard_unfinished).run()
        failed = {failure.name for failure in self.failures}
        for work in self.plan.variants:
            if SPEED_TABLE in work.tables and not {work.name, work.model} & failed:
                self._variant(work, (SPEED_TABLE,), (), is_last=True)

    def _model(self, work: PartitionWork) -> bool:
        job = "search_tables" if work.is_search else "model_tables"
        return self._run(job, work.name, work.model, _keys(work.tables))

    def _variants(self, works: list[PartitionWork]) -> None:
        """Prune all variants of a model, then measure them; batches share the work of the dense model."""
        to_prune = [work for work in works if "variants" in work.tables]
        failed = {
            work.name
            for number, work in enumerate(to_prune, start=1)
            if not self._variant(work, PRUNING_TABLES, to_prune[number:], is_last=work.tables == PRUNING_TABLES)
        }
        if works:
            self._discard_unfinished(works[0].model, failed)
        to_measure = [work for work in works if work.name not in failed and work.tables != PRUNING_TABLES]
        for number, work in enumerate(to_measure, start=1):
            tables = tuple(table for table in work.tables if table != "variants")
            batch_with = [other for other in to_measure[number:] if set(other.tables) & set(STEPS["traces"].tables)]
            self._variant(work, tables, batch_with, is_last=True)

    def _discard_unfinished(self, model: str, failed: set[str]) -> None:
        """Delete pruned layers that killed runs have left, but keep those of failed variants for the next attempt."""
        folder = unfinished_folder(self.store, model)
        for recipe in self.plan.study.recipes:
            if f"{model}@{recipe.name}" not in failed:
                shutil.rmtree(folder / recipe.name, ignore_errors=True)
        with suppress(OSError):  # it is not empty, or does not exist
            folder.rmdir()

    def _variant(
        self, work: PartitionWork, tables: tuple[str, ...], batch_with: Sequence[PartitionWork], *, is_last: bool
    ) -> bool:
        if work.recipe is None:
            raise ValueError("a variant has a recipe")
        key = variant_key(work.model, work.recipe.name)
        others = [other.recipe.name for other in batch_with if other.recipe]
        return self._run("variant_tables", work.name, key, _keys(tables), others, is_last=is_last)

    def _run(
        self,
        job_name: str,
        name: str,
        partition: str | None,
        keys: list[AssetKey] | None,
        batch_with: Sequence[str] = (),
        *,
        is_last: bool = True,
    ) -> bool:
        """Execute one Dagster run and return whether it succeeded; the last run of a partition reports it as computed.

        Work that several variants share is reported by itself and not counted in a variant's seconds.
        """
        MODEL_CACHE.take_shared()
        started = time.perf_counter()
        result = asset_definitions.definitions.resolve_job_def(job_name).execute_in_process(
            instance=self.instance,
            partition_key=partition,
            asset_selection=keys,
            run_config=self._config(batch_with),
            # Without a user the UI shows "launched manually"; of a user it shows some 15 characters.
            tags={WAREHOUSE_TAG: str(self.store.root), STUDY_TAG: self.plan.study.name, USER_TAG: self.launched_by},
            raise_on_error=False,
        )
        if self.interrupted():
            raise KeyboardInterrupt
        self._seconds[name] += time.perf_counter() - started
        for work, seconds in MODEL_CACHE.take_shared() if job_name == "variant_tables" else ():
            self._seconds[name] -= seconds
            self.listener.shared(f"{name.partition('@')[0]}: {work}", seconds)
        if not result.success:
            failure = _failure(name, result.all_events)
            self.failures.append(failure)
            self.listener.failed(failure)
        elif is_last:
            self.computed.append(name)
            self.listener.computed(name, self._seconds[name])
        return result.success

    def _config(self, batch_with: Sequence[str]) -> dict[str, object]:
        """Return the run's configuration, which the UI shows and can execute again."""
        engine = {"kind": "ray", "ray": asdict(self.cluster)} if self.cluster else {}
        return {
            "resources": {
                "study": {"config": StudyResource.config_of(self.request)},
                "warehouse": {"config": {"root": str(self.store.root)}},
                "engine": {"config": {"beside": list(batch_with)} | engine},
            },
            # The listener reports failures; Dagster keeps its own log in the instance.
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        }


def _keys(tables: tuple[str, ...]) -> list[AssetKey]:
    """Return the assets of the steps that write the tables: a step writes all of its tables at once."""
    return [AssetKey(table) for table in sorted(table for step in steps_writing(tables) for table in step.tables)]


def _failed_checks(events: Sequence[DagsterEvent]) -> str:
    """Describe the asset checks that failed, with their metadata."""
    failed = []
    for event in events:
        if event.event_type_value == "ASSET_CHECK_EVALUATION":
            check = event.asset_check_evaluation_data
            if not check.passed:
                counts = ", ".join(f"{key} {value.value}" for key, value in check.metadata.items())
                failed.append(f"{check.check_name} ({counts})")
    return "; ".join(failed)


def _failure(name: str, events: Sequence[DagsterEvent]) -> Failure:
    """Return the failure of a run: the error of the first failed step, or the failed checks."""
    for event in events:
        if event.is_step_failure and (error := event.step_failure_data.error):
            cause = error.cause or error
            kind = (cause.cls_name or "Error").rpartition(".")[2]
            message = cause.message.strip()
            if message.partition(":")[0].endswith(kind):
                message = message.partition(":")[2].strip()
            is_input = kind in _INPUT_ERRORS
            if checks := _failed_checks(events):
                message = f"checks failed: {checks}; run the study again, then report it"
                return Failure(name, message, is_input=False, traceback=error.to_string())
            return Failure(name, message if is_input else f"{kind}: {message}", is_input, error.to_string())
    return Failure(name, "the run failed before its first step; see the Dagster UI", is_input=False)
