"""The sensors and the schedule that launch runs for watched studies.

`watch` launches what is missing or outdated, `answers` the report, `nightly` everything. Each launches one run per
state of model, recipes and study; a failed run is repeated when one of them changes, or at night.
"""

import datetime
from collections.abc import Iterable, Iterator

from dagster import (
    AssetMaterialization,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    DynamicPartitionsDefinition,
    RunRequest,
    RunsFilter,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    schedule,
    sensor,
)
from pydantic import BaseModel

from prunescope.assets import settings
from prunescope.assets.defs.asset_definitions import ANSWERS
from prunescope.assets.defs.partitions import MODELS, RECIPES
from prunescope.assets.defs.recipe_asset import published, published_recipes
from prunescope.assets.instance.instance import STUDY_TAG, UNFINISHED, is_busy
from prunescope.assets.runs.study_job import STUDY, run_config
from prunescope.assets.watching.backlog import DueWork, FreshnessScanner
from prunescope.assets.watching.watch_list import WatchedStudy, WatchState
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.recipes import Recipe
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import fingerprint

SCANNER = FreshnessScanner()
MODEL_TAG, WATCH_TAG = "prunescope/model", "prunescope/watched"
# Ticks without a run after which answers are made although tables are still missing or outdated.
_MAX_WAIT_TICKS = 3


class AnswersCursor(BaseModel):
    """The state that the sensor `answers` keeps between ticks.

    Attributes:
        ticks: by study, the version that its report should have, and the number of ticks in a row without a run.
        asked: by study, the version for which a run was requested, until the report has it.
        times: as in `WatchCursor`.
    """

    ticks: dict[str, tuple[str, int]] = {}
    asked: dict[str, str] = {}
    times: int = 0


class WatchCursor(BaseModel):
    """The state that the sensor `watch` keeps between ticks.

    Attributes:
        asked: the state in which each missing or outdated partition was requested, until it is there.
        told: logged problems, by path or study.
        times: number of ticks that requested runs, part of the run keys: a model that returns in the same state gets a
            new run, but a tick that Dagster repeats after losing this cursor does not launch its runs twice.
    """

    asked: dict[str, str] = {}
    told: dict[str, str] = {}
    times: int = 0


# By name, because Dagster copies job objects given to a sensor, and the copy raises a warning.
@sensor(
    name="watch",
    job_name=STUDY.name,
    minimum_interval_seconds=settings.watch_seconds(),
    default_status=DefaultSensorStatus.RUNNING,
    description="Computes what watched studies miss, and what a changed recipe, prompt set, calibration, task or code "
    "version has made outdated; looks for new models. Stops runs of models that are no longer watched.",
)
def watch_sensor(context: SensorEvaluationContext) -> SensorResult | SkipReason:
    """Compare the warehouse with its watch list and its watched folder."""
    store = Store(settings.warehouse_root())
    cursor = WatchCursor.model_validate_json(context.cursor) if context.cursor else WatchCursor()
    try:
        backlog = SCANNER.scan(store)
    except (InputError, WarehouseError) as error:
        return SkipReason(str(error))
    for source, reason in backlog.watch.refused.items():
        if cursor.told.get(source) != reason:
            context.log.warning(f"not watched: {reason}")
    for run in _no_longer_watched(context.instance.get_runs(RunsFilter(statuses=UNFINISHED)), backlog.watch):
        context.log.info(f"{run.job_name} {run.run_id}: its model is no longer watched; it is stopped")
        context.instance.run_coordinator.cancel_run(run.run_id)
    # A run that holds the warehouse may be computing the same; what it leaves is requested afterwards.
    is_free = not is_busy(store.local(settings.cache_folder()))
    asked, requests = _due_runs(backlog.due, cursor, store) if is_free else (cursor.asked, [])
    return SensorResult(
        run_requests=requests,
        dynamic_partitions_requests=list(_new_partitions(backlog.watch.studies, context.instance)),
        asset_events=list(_changed_recipes(backlog.watch.studies, context.instance)),
        cursor=WatchCursor(
            asked=asked, told=backlog.watch.refused, times=cursor.times + bool(requests)
        ).model_dump_json(),
    )


@sensor(
    name="answers",
    job_name=ANSWERS.name,
    minimum_interval_seconds=settings.watch_seconds(),
    default_status=DefaultSensorStatus.RUNNING,
    description="Answers the questions, draws the figures and writes the report of a watched study as soon as its "
    "tables have changed and no run is unfinished.",
)
def answers_sensor(context: SensorEvaluationContext) -> SensorResult | SkipReason:
    """Request the answers once no run is unfinished, so that all variants of a night share one run of the answers."""
    store = Store(settings.warehouse_root())
    try:
        backlog = SCANNER.scan(store)
    except (InputError, WarehouseError) as error:
        return SkipReason(str(error))
    before = AnswersCursor.model_validate_json(context.cursor) if context.cursor else AnswersCursor()
    if context.instance.get_runs(RunsFilter(statuses=UNFINISHED), limit=1):
        return SensorResult(cursor=before.model_copy(update={"ticks": {}}).model_dump_json())
    after, requests = AnswersCursor(times=before.times), []
    for watched in backlog.watch.studies:
        name = watched.study.name
        if (version := backlog.stale_reports.get(name)) is None:
            continue
        after.ticks[name] = (version, before.ticks[name][1] + 1 if before.ticks.get(name, ("",))[0] == version else 1)
        if before.asked.get(name) == version:
            after.asked[name] = version
            continue
        # Missing or outdated tables get some ticks to start a run; if none starts, it has probably failed before.
        if after.ticks[name][1] >= (_MAX_WAIT_TICKS if backlog.waits_for_tables(watched.study) else 1):
            after.asked[name] = version
            requests.append(
                RunRequest(
                    run_key=f"answers of {name} {version} {before.times}",
                    run_config=run_config(watched.request, store),
                    tags={WATCH_TAG: "answers", STUDY_TAG: name},
                )
            )
    after.times += bool(requests)
    return SensorResult(run_requests=requests, cursor=after.model_dump_json())


@schedule(
    name="nightly",
    job=STUDY,
    cron_schedule="0 2 * * *",
    default_status=DefaultScheduleStatus.RUNNING,
    description="At 02:00 UTC: all that the watched studies still need, including what failed during the day.",
)
def nightly() -> list[RunRequest] | SkipReason:
    """Request one run for each watched study with something to do."""
    store = Store(settings.warehouse_root())
    try:
        backlog = SCANNER.scan(store)
    except (InputError, WarehouseError) as error:
        return SkipReason(str(error))
    # The key has one value per day: nights that Dagster catches up on share one run.
    day = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    return [
        RunRequest(
            run_key=f"{watched.study.name} {day}",
            run_config=run_config(watched.request, store),
            tags={WATCH_TAG: "nightly", STUDY_TAG: watched.study.name},
        )
        for watched in backlog.watch.studies
        if backlog.is_incomplete(watched.study)
    ] or SkipReason("all watched studies are current")


def _due_runs(due: Iterable[DueWork], cursor: WatchCursor, store: Store) -> tuple[dict[str, str], list[RunRequest]]:
    """Return the states requested by now, and one run for each study and model with a new state."""
    all_states, requests = dict[str, str](), []
    for work in due:
        study = work.watched.study.name
        recipes = {f"{study}/{work.model}/{recipe or ''}": recipe for recipe in work.states}
        states = {key: work.states[recipe] for key, recipe in recipes.items()}
        all_states |= states
        if new := {key: state for key, state in states.items() if cursor.asked.get(key) != state}:
            # If the model or its files have changed, the run itself has to find out what is outdated.
            is_whole = not work.is_missing.get(None, True) or not (work.is_known or all(work.is_missing.values()))
            chosen = () if is_whole else dict.fromkeys(recipes[key] or "dense" for key in new)
            requests.append(
                RunRequest(
                    run_key=f"{study}/{work.model} {fingerprint(new)} {cursor.times}",
                    run_config=run_config(
                        work.watched.of_model(work.model, tuple(chosen)), store, options={"answers": False}
                    ),
                    tags={WATCH_TAG: "due", STUDY_TAG: study, MODEL_TAG: work.model},
                )
            )
    return all_states, requests


def _no_longer_watched(runs: Iterable[DagsterRun], watch: WatchState) -> Iterator[DagsterRun]:
    """Yield the runs of sensors whose model has left its study since they were launched."""
    if not watch.is_whole:  # a study or model that is being written at the moment is not gone
        return
    models = {(watched.study.name, model) for watched in watch.studies for model in watched.origins}
    for run in runs:
        is_watched = (run.tags.get(STUDY_TAG), run.tags.get(MODEL_TAG)) in models
        if run.tags.get(WATCH_TAG) == "due" and not is_watched and run.status != DagsterRunStatus.CANCELING:
            yield run


def _changed_recipes(studies: Iterable[WatchedStudy], instance: DagsterInstance) -> Iterator[AssetMaterialization]:
    """Yield the new versions of published recipes, which mark their variants as stale before a run computes them."""
    versions: dict[str, dict[str, Recipe]] = {}
    for watched in studies:
        for recipe in watched.study.recipes:
            versions.setdefault(recipe.name, {})[recipe.hash] = recipe
    for name, version in published_recipes(instance, sorted(versions)).items():
        if version not in versions[name]:
            yield published(versions[name][min(versions[name])])


def _new_partitions(studies: Iterable[WatchedStudy], instance: DagsterInstance) -> Iterator[object]:
    names: dict[DynamicPartitionsDefinition, list[str]] = {
        MODELS: [model.name for watched in studies for model in watched.study.models],
        RECIPES: [recipe.name for watched in studies for recipe in watched.study.recipes],
    }
    for dimension, keys in names.items():
        known = set(instance.get_dynamic_partitions(str(dimension.name)))
        if new := [name for name in dict.fromkeys(keys) if name not in known]:
            yield dimension.build_add_request(new)
