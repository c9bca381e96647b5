"""The Dagster job of a whole study: one run that computes its models and records each partition as it is written.

`prunescope run` executes it in its own process; the sensor, the schedule and a click launch it.
"""

import time
from collections.abc import Iterator, Mapping

from dagster import (
    AssetCheckEvaluation,
    AssetMaterialization,
    Config,
    DagsterInstance,
    JobDefinition,
    OpExecutionContext,
    Output,
    graph,
    in_process_executor,
    op,
)
from dagster import Failure as StepFailure
from pydantic import Field

from prunescope.assets.defs import asset_definitions
from prunescope.assets.defs.answer_assets import write_published
from prunescope.assets.defs.log_progress import LogListener
from prunescope.assets.defs.metadata import recorded, unrecorded
from prunescope.assets.defs.recipe_asset import register_study, unpublished
from prunescope.assets.defs.resources import StudyResource, WarehouseResource
from prunescope.assets.defs.table_assets import GPU, EngineResource
from prunescope.assets.execution.signals import watch_interrupts
from prunescope.assets.execution.task import TableWritten
from prunescope.assets.instance import settings
from prunescope.assets.instance.instance import (
    LAUNCHER_TAGS,
    MAX_RETRIES_TAG,
    STUDY_TAG,
    USER_TAG,
    WAREHOUSE_TAG,
    allow_retries,
    has_lost_two_processes,
    open_instance,
    recover,
    require_space,
    writer_lock,
)
from prunescope.assets.planning.freshness import table_partitions
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.assets.runs.study_run import ANSWERS_NAME, INPUT_ERRORS, Failure, StudyRun
from prunescope.assets.watching.watch_list import make_models_folder
from prunescope.pipelines.core.errors import ComputationError
from prunescope.warehouse.catalogue.database import build_file
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES

# The views as a file for DuckDB's own tools; every run writes it again.
CATALOGUE = "_catalogue/prunescope.duckdb"


class WholeStudy(Config):
    """Options of a study's job in addition to its resources."""

    replace: bool = Field(default=False, description="Recompute what another study computed from other inputs.")
    tables: list[str] = Field(default=[], description="These tables only, without the answers; empty: the whole study.")


def _study_job(pool: str | None, own: StudyRun | None = None) -> JobDefinition:
    """Return the job; with a run of a command, to execute that one, as Dagster passes plain configuration alone."""

    @op(
        pool=pool,
        description="Computes what the study still needs, model by model; records each partition; then the answers.",
    )
    def whole_study(
        context: OpExecutionContext,
        config: WholeStudy,
        study: StudyResource,
        warehouse: WarehouseResource,
        engine: EngineResource,
    ) -> Iterator[AssetMaterialization | AssetCheckEvaluation | Output[None]]:
        store = warehouse.store()
        run = own or StudyRun(
            study.request(store, context.instance),
            store,
            LogListener(context.log),
            replace=config.replace,
            tables=config.tables or None,
        )
        try:
            yield from _computed(run, context, engine)
        except Exception as error:
            run.error = error
            raise
        if failures := run.result.failures:
            raise StepFailure("\n".join(f"{failure.name}: {failure.message}" for failure in failures))
        yield Output(None)

    @graph(description="Run a whole study: models, variants, answers, report. What is current is not computed again.")
    def whole() -> None:
        whole_study()

    resources = asset_definitions.definitions.resources
    return whole.to_job(name="study", resource_defs=resources, executor_def=in_process_executor)


def _computed(
    run: StudyRun, context: OpExecutionContext, engine: EngineResource
) -> Iterator[AssetMaterialization | AssetCheckEvaluation]:
    """Compute all that is missing or stale; yield the events of each partition as it is written.

    A failed partition does not stop the others.
    """
    plan = run.checked_plan()
    if plan.is_empty:
        return
    run.listener.planned(len(plan.works) + plan.is_report_stale)
    register_study(context.instance, run.study)
    yield from unpublished(context.instance, run.study.recipes)
    yield from unrecorded(context.instance, run.study, run.models(), run.store)
    tasks = list(run.tasks(plan, halves_batches=has_lost_two_processes(context.run.tags)))
    for task, event in engine.events(tasks, run.listener, run.listener.note):
        if isinstance(event, TableWritten):
            yield from recorded(context.instance, event, task.model)
        run.hear(task, event)
        if run.interrupted():  # what is written is recorded first
            raise KeyboardInterrupt
    engine.release()
    if plan.is_report_stale and table_partitions(run.store, TABLES, run.study):
        run.listener.begins(ANSWERS_NAME, "answers")
        answer(run, context)


# Runs that Dagster launches wait for each other: one model at a time is in memory.
STUDY_JOB = _study_job(GPU)


def run_in_this_process(run: StudyRun, cluster: Mapping[str, object] | None) -> None:
    """Execute the run of a study as a Dagster run of this process.

    Raises:
        InputError, ComputationError, WarehouseError, KeyboardInterrupt: as `run_study`.
    """
    local = run.store.local(settings.cache_folder())
    with writer_lock(local, run.listener.note, run.store.url):
        require_space(local)
        make_models_folder(run.store)
        with open_instance(local) as instance, watch_interrupts() as interrupted:
            recover(instance, str(run.store.root), local)
            run.interrupted = interrupted
            options = {"replace": run.replace, "tables": list(run.tables or ())}
            config = run_config(run.request, run.store, cluster or {"address": ""}) | {
                "ops": {"whole_study": {"config": options}},
                # The listener reports failures; Dagster keeps its own log in the instance.
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            }
            # Without a user the UI shows "launched manually".
            tags = run_tags(run.study.name, run.store) | {USER_TAG: "command line"}
            # A command says itself what it waits for, and ends at Ctrl-C; Dagster's wait for a pool does neither.
            failure = _executed(_study_job(None, run), instance, config, tags)
            if interrupted():
                raise KeyboardInterrupt
            if run.error is not None:
                raise run.error
            if failure and not run.result.failures:
                raise ComputationError(f"the run could not be recorded: {failure.message}")


def answer(run: StudyRun, context: OpExecutionContext) -> None:
    """Answer the questions, draw the figures and write the report in a run of their assets."""
    started = time.perf_counter()
    write_published(run.store)  # damaged ones would keep every question from opening the warehouse
    loggers = {key: value for key, value in context.run.run_config.items() if key == "loggers"}
    launcher = {tag: value for tag, value in context.run_tags.items() if tag in LAUNCHER_TAGS}
    failure = _executed(
        asset_definitions.definitions.resolve_job_def("answers"),
        context.instance,
        run_config(run.request, run.store) | loggers,
        run_tags(run.study.name, run.store) | launcher,
    )
    build_file(run.store.root, run.store.root / CATALOGUE)
    if failure is None:
        run.computed(ANSWERS_NAME, time.perf_counter() - started)
    else:
        run.failed(failure)


def _executed(
    job: JobDefinition, instance: DagsterInstance, config: dict[str, object], tags: dict[str, str]
) -> Failure | None:
    """Execute a job in this process; return the error of its first failed step, if it fails."""
    done = job.execute_in_process(instance=instance, run_config=config, tags=tags, raise_on_error=False)
    allow_retries(instance, done.run_id)
    if done.success:
        return None
    for event in done.all_events:
        if event.is_step_failure and (error := event.step_failure_data.error):
            cause = error.cause or error
            kind = (cause.cls_name or "Error").rpartition(".")[2]
            name, _, text = cause.message.strip().partition(":")
            message, is_input = (text if name.endswith(kind) else cause.message).strip(), kind in INPUT_ERRORS
            return Failure(ANSWERS_NAME, message if is_input else f"{kind}: {message}", is_input, error.to_string())
    return Failure(ANSWERS_NAME, "the run failed before its first step; see the Dagster UI", is_input=False)


def run_tags(study: str, store: Store) -> dict[str, str]:
    """Return the tags of a run that its own process executes: Dagster does not start it again if it is lost."""
    return {WAREHOUSE_TAG: str(store.root), STUDY_TAG: study, MAX_RETRIES_TAG: "0"}


def run_config(request: StudyRequest, store: Store, engine: Mapping[str, object] | None = None) -> dict[str, object]:
    """Return a run's configuration, which the UI shows and can execute again.

    `engine` has the fields of `EngineResource`; None for the default.
    """
    given = {"study": StudyResource.config_of(request), "warehouse": {"root": str(store.root)}}
    given |= {} if engine is None else {"engine": engine}
    return {"resources": {name: {"config": config} for name, config in given.items()}}
