"""Executes what a study still needs through Dagster, in this process: one run per model, per variant, one for answers.

What is stale is decided in `plan.py`; how progress looks is the listener's business.
"""

import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from dagster import AssetKey, DagsterEvent, DagsterInstance
from dagster._core.storage.tags import USER_TAG

from prunescope.assets import settings
from prunescope.assets.defs.asset_definitions import asset_definitions
from prunescope.assets.defs.automation_conditions import published_recipes
from prunescope.assets.defs.partitions import MODELS, RECIPES, register, variant_key
from prunescope.assets.defs.recipe_asset import published
from prunescope.assets.defs.resources import StudyResource
from prunescope.assets.execution.local.client import stop_worker
from prunescope.assets.execution.model_cache import LOADED
from prunescope.assets.execution.ray.config import RayClusterConfig
from prunescope.assets.execution.signals import watched
from prunescope.assets.execution.task import STEPS
from prunescope.assets.instance.instance import STUDY_TAG, WAREHOUSE_TAG, opened, recover, require_space
from prunescope.assets.planning import answer_version
from prunescope.assets.planning.fingerprints import SPEED_TABLE
from prunescope.assets.planning.work_plan import PartitionWork, Plan, StudyRequest, unfinished_folder
from prunescope.assets.runs.outcome import Failure, Listener, RunResult
from prunescope.assets.watching.watch_list import make_models_folder
from prunescope.pipelines.core import scratch_directory
from prunescope.warehouse.catalogue.database import build_file
from prunescope.warehouse.storage.partition_store import Store

# The user's mistakes, by the names under which Dagster reports them.
_INPUT_ERRORS = {"InputError", "WarehouseError"}
# The views as a file, for people who open the warehouse with DuckDB itself; made again by every run.
CATALOGUE = "_catalogue/prunescope.duckdb"


def execute(
    plan: Plan,
    request: StudyRequest,
    store: Store,
    listener: Listener,
    *,
    computes_here: bool,
    place: RayClusterConfig | None,
    asked_by: str,
) -> RunResult:
    """Computes everything in the plan; one partition's failure does not stop the others.

    Call it as the warehouse's only writer.

    Args:
        plan: what to compute.
        request: the study, as the runs' configuration names it.
        store: the warehouse.
        listener: told how far it is.
        computes_here: whether this process computes rather than the warehouse's worker.
        place: the Ray cluster whose machines compute instead.
        asked_by: who asked, as the UI shows it.

    Raises:
        InputError: the cluster cannot be reached, has no room, or its machines do not see the warehouse.
        ComputationError: the cluster lost all of its workers.
        WarehouseError: the disk is full.
        KeyboardInterrupt: SIGINT or SIGTERM came.
    """
    local = store.local(settings.cache_folder())
    require_space(local)
    make_models_folder(store)
    with opened(local) as instance, watched() as interrupted:
        recover(instance, str(store.root))
        store.clean_temporaries()
        scratch_directory.clean()
        runs = _Runs(plan, request, store, listener, instance, interrupted, place, asked_by)
        if computes_here:
            stop_worker(local)
        with LOADED.telling(listener, claims=computes_here):
            runs.everything()
        return RunResult(plan.study, runs.computed, runs.failures)


@dataclass
class _Runs:
    """The Dagster runs of one plan, one after the other."""

    plan: Plan
    request: StudyRequest
    store: Store
    listener: Listener
    instance: DagsterInstance
    interrupted: Callable[[], bool]
    place: RayClusterConfig | None
    asked_by: str
    computed: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    # Of the runs so far, by partition; what it shares with others is left out.
    _seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def everything(self) -> None:
        """Recipes, then each model with its variants, so that a model is loaded once, then the answers."""
        study = self.plan.study
        self.listener.planned(len(self.plan.models) + len(self.plan.variants) + self.plan.is_report_stale)
        register(self.instance, MODELS, [model.name for model in study.models])
        register(self.instance, RECIPES, [recipe.name for recipe in study.recipes])
        known = published_recipes(self.instance, [recipe.name for recipe in study.recipes])
        for recipe in study.recipes:
            if known.get(recipe.name) != recipe.hash:
                self.instance.report_runless_asset_event(published(recipe))
        if self.place is not None:
            self._spread(self.place)
        else:
            for model in study.models:
                own = [work for work in self.plan.models if work.model == model.name]
                if all(self._model(work) for work in own):
                    self._variants([work for work in self.plan.variants if work.model == model.name])
        LOADED.release()
        if self.plan.is_report_stale and answer_version.partitions_of(self.store, study):
            self._answers()

    def _spread(self, place: RayClusterConfig) -> None:
        """Models and variants on the machines of a cluster; `speed` is measured here, where the study is run from."""
        from prunescope.assets.execution.ray.schedule import RaySchedule
        from prunescope.assets.execution.ray.worker_pool import WorkerPool

        def record(work: PartitionWork, tables: tuple[str, ...], is_last: bool) -> bool:
            return self._variant(work, tables, (), is_last=is_last) if work.recipe else self._model(work)

        with WorkerPool(place, self.listener.note) as fleet:
            order = RaySchedule(self.plan, self.request, str(self.store.root), fleet, record, self._discard_unfinished)
            order.everything()
        failed = {failure.name for failure in self.failures}
        for work in self.plan.variants:
            if SPEED_TABLE in work.tables and not {work.name, work.model} & failed:
                self._variant(work, (SPEED_TABLE,), (), is_last=True)

    def _answers(self) -> None:
        """What is asked of the whole warehouse when its partitions are there, and the views for DuckDB itself."""
        self._run("answers", "questions, figures and report", None, None)
        build_file(self.store.root, self.store.root / CATALOGUE)

    def _model(self, work: PartitionWork) -> bool:
        return self._run("model_tables", work.name, work.model, _keys(work.tables))

    def _variants(self, works: list[PartitionWork]) -> None:
        """Prunes all variants of a model, then measures them: known together, they share the dense side's work."""
        masks = ("variants",)
        to_prune = [work for work in works if "variants" in work.tables]
        failed = {
            work.name
            for number, work in enumerate(to_prune, start=1)
            if not self._variant(work, masks, to_prune[number:], is_last=work.tables == masks)
        }
        if works:
            self._discard_unfinished(works[0].model, failed)
        measured = [work for work in works if work.name not in failed and work.tables != masks]
        for number, work in enumerate(measured, start=1):
            tables = tuple(table for table in work.tables if table != "variants")
            beside = [other for other in measured[number:] if set(other.tables) & set(STEPS["traces"])]
            self._variant(work, tables, beside, is_last=True)

    def _discard_unfinished(self, model: str, failed: set[str]) -> None:
        """Layers of variants that are whole, left by a run killed in between; those of failed ones are used again."""
        folder = unfinished_folder(self.store, model)
        for recipe in self.plan.study.recipes:
            if f"{model}@{recipe.name}" not in failed:
                shutil.rmtree(folder / recipe.name, ignore_errors=True)
        with suppress(OSError):  # others are in it, or nobody was
            folder.rmdir()

    def _variant(
        self, work: PartitionWork, tables: tuple[str, ...], beside: Sequence[PartitionWork], *, is_last: bool
    ) -> bool:
        if work.recipe is None:
            raise ValueError("a variant has a recipe")
        key = variant_key(work.model, work.recipe.name)
        coming = [other.recipe.name for other in beside if other.recipe]
        return self._run("variant_tables", work.name, key, _keys(tables), coming, is_last=is_last)

    def _run(
        self,
        job_name: str,
        name: str,
        partition: str | None,
        keys: list[AssetKey] | None,
        beside: Sequence[str] = (),
        *,
        is_last: bool = True,
    ) -> bool:
        """One Dagster run; whether it succeeded. The last one of a partition reports it as computed.

        What several variants share has a line of its own: beside a variant stand the seconds of its own work.
        """
        LOADED.shared()
        started = time.perf_counter()
        result = asset_definitions.resolve_job_def(job_name).execute_in_process(
            instance=self.instance,
            partition_key=partition,
            asset_selection=keys,
            run_config=self._config(beside),
            # Without a user the UI says that somebody has clicked; it shows some 15 characters of one.
            tags={
                WAREHOUSE_TAG: str(self.store.root),
                STUDY_TAG: self.plan.study.name,
                USER_TAG: self.asked_by,
            },
            raise_on_error=False,
        )
        if self.interrupted():
            raise KeyboardInterrupt
        self._seconds[name] += time.perf_counter() - started
        for what, seconds in LOADED.shared() if job_name == "variant_tables" else ():
            self._seconds[name] -= seconds
            self.listener.shared(f"{name.partition('@')[0]}: {what}", seconds)
        if not result.success:
            failure = _failure(name, result.all_events)
            self.failures.append(failure)
            self.listener.failed(failure)
        elif is_last:
            self.computed.append(name)
            self.listener.computed(name, self._seconds[name])
        return result.success

    def _config(self, beside: Sequence[str]) -> dict[str, object]:
        """Stands in the run, so that the UI shows it and can execute the run again."""
        engine = {"kind": "ray", "ray": asdict(self.place)} if self.place else {}
        return {
            "resources": {
                "study": {"config": StudyResource.config_of(self.request)},
                "warehouse": {"config": {"root": str(self.store.root)}},
                "engine": {"config": {"beside": list(beside)} | engine},
            },
            # Failures are reported by the listener; Dagster keeps its own log in the instance.
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        }


def _keys(tables: tuple[str, ...]) -> list[AssetKey]:
    """The assets of some tables, and of those that come out of the same computations."""
    wanted = {table for step in STEPS.values() if set(step) & set(tables) for table in step}
    return [AssetKey(name) for name in sorted(wanted)]


def _broken(events: Sequence[DagsterEvent]) -> str:
    """Asset checks that failed, each with what it found."""
    found = []
    for event in events:
        if event.event_type_value == "ASSET_CHECK_EVALUATION":
            check = event.asset_check_evaluation_data
            if not check.passed:
                counts = ", ".join(f"{key} {value.value}" for key, value in check.metadata.items())
                found.append(f"{check.check_name} ({counts})")
    return "; ".join(found)


def _failure(name: str, events: Sequence[DagsterEvent]) -> Failure:
    """The first step that failed, in the words of the error that it raised."""
    for event in events:
        if event.is_step_failure and (error := event.step_failure_data.error):
            cause = error.cause or error
            kind = (cause.cls_name or "Error").rpartition(".")[2]
            message = cause.message.strip()
            if message.partition(":")[0].endswith(kind):
                message = message.partition(":")[2].strip()
            is_input = kind in _INPUT_ERRORS
            if broken := _broken(events):
                return Failure(name, f"checks failed: {broken}", is_input=False, traceback=error.to_string())
            return Failure(name, message if is_input else f"{kind}: {message}", is_input, error.to_string())
    return Failure(name, "the run failed before its first step; see the Dagster UI", is_input=False)
