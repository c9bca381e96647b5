"""Who starts runs when nobody does: a sensor for what is missing, conditions for what is outdated, a nightly schedule.

What is missing says `backlog.py`. A run is asked for once for each state of model, recipe and study; what failed is
left alone until one of them changes, or until the night.
"""

import datetime
import warnings
from collections.abc import Iterable, Iterator

from dagster import (
    AssetSelection,
    AutomationConditionSensorDefinition,
    BetaWarning,
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
from prunescope.assets.automation.jobs import STUDY, run_config
from prunescope.assets.defs.asset_definitions import ANSWERS
from prunescope.assets.defs.automation_conditions import RECIPE, SURVEYOR
from prunescope.assets.defs.partitions import MODELS, RECIPES
from prunescope.assets.instance.instance import STUDY_TAG, UNFINISHED
from prunescope.assets.watching.backlog import MissingWork
from prunescope.assets.watching.watch_list import Watched, WatchState
from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import fingerprint

MODEL_TAG, WATCH_TAG = "prunescope/model", "prunescope/watched"
# So many ticks without a run pass before answers are made without what is still missing or outdated.
_PATIENCE = 3


class AnswersCursor(BaseModel):
    """What the sensor `answers` keeps from tick to tick.

    Attributes:
        ticks: by study, the version that its report lacks, and ticks in a row without a run.
        asked: by study, the version that a run was asked for; only while the report lacks it.
        times: as in `WatchCursor`.
    """

    ticks: dict[str, tuple[str, int]] = {}
    asked: dict[str, str] = {}
    times: int = 0


class WatchCursor(BaseModel):
    """What the sensor `watch` keeps from tick to tick.

    Attributes:
        asked: what a run was asked for, in which state; only while it is still missing.
        told: what was said to be wrong, by its place.
        times: how often runs were asked for, a part of their keys: the model that comes back in the same state gets a
            new run, the tick that is repeated because its memory was lost does not.
    """

    asked: dict[str, str] = {}
    told: dict[str, str] = {}
    times: int = 0


# The jobs of both sensors stand there by name: of the jobs themselves Dagster makes a copy that warns of itself.
@sensor(
    name="watch",
    job_name=STUDY.name,
    minimum_interval_seconds=settings.watch_seconds(),
    default_status=DefaultSensorStatus.RUNNING,
    description="Looks for new models and studies and computes what is missing of them. Stops the runs of models that "
    "are no longer watched.",
)
def watch_sensor(context: SensorEvaluationContext) -> SensorResult | SkipReason:
    """Compares the warehouse with its watch list and its watched folder."""
    store = Store(settings.warehouse_root())
    memory = WatchCursor.model_validate_json(context.cursor) if context.cursor else WatchCursor()
    try:
        backlog = SURVEYOR.survey(store)
    except (InputError, WarehouseError) as error:
        return SkipReason(str(error))
    for place, reason in backlog.watch.refused.items():
        if memory.told.get(place) != reason:
            context.log.warning(f"not watched: {reason}")
    for run in _no_longer_watched(context.instance.get_runs(RunsFilter(statuses=UNFINISHED)), backlog.watch):
        context.log.info(f"{run.job_name} {run.run_id}: its model is no longer watched; it is stopped")
        context.instance.run_coordinator.cancel_run(run.run_id)
    asked, requests = _of_missing(backlog.due, memory, store)
    return SensorResult(
        run_requests=requests,
        dynamic_partitions_requests=list(_new_partitions(backlog.watch.studies, context.instance)),
        cursor=WatchCursor(
            asked=asked, told=backlog.watch.refused, times=memory.times + bool(requests)
        ).model_dump_json(),
    )


@sensor(
    name="answers",
    job_name=ANSWERS.name,
    minimum_interval_seconds=settings.watch_seconds(),
    default_status=DefaultSensorStatus.RUNNING,
    description="Answers the questions, draws the figures and writes the report of a watched study as soon as its "
    "tables have changed and come to rest.",
)
def answers_sensor(context: SensorEvaluationContext) -> SensorResult | SkipReason:
    """Waits until nothing runs, so that a night's variants bring one run of the answers and not one each."""
    store = Store(settings.warehouse_root())
    try:
        backlog = SURVEYOR.survey(store)
    except (InputError, WarehouseError) as error:
        return SkipReason(str(error))
    before = AnswersCursor.model_validate_json(context.cursor) if context.cursor else AnswersCursor()
    if context.instance.get_runs(RunsFilter(statuses=UNFINISHED), limit=1):
        return SensorResult(cursor=before.model_copy(update={"ticks": {}}).model_dump_json())
    quiet, requests = AnswersCursor(times=before.times), []
    for watched in backlog.watch.studies:
        name = watched.study.name
        if (version := backlog.stale_reports.get(name)) is None:
            continue
        quiet.ticks[name] = (version, before.ticks[name][1] + 1 if before.ticks.get(name, ("",))[0] == version else 1)
        if before.asked.get(name) == version:
            quiet.asked[name] = version
            continue
        # What is missing or outdated gets some time to start a run; perhaps it has failed and will not.
        if quiet.ticks[name][1] >= (_PATIENCE if backlog.waits_for_tables(watched.study) else 1):
            quiet.asked[name] = version
            requests.append(
                RunRequest(
                    run_key=f"answers of {name} {version} {before.times}",
                    run_config=run_config(watched.request, store),
                    tags={WATCH_TAG: "answers", STUDY_TAG: name},
                )
            )
    quiet.times += bool(requests)
    return SensorResult(run_requests=requests, cursor=quiet.model_dump_json())


@schedule(
    name="nightly",
    job=STUDY,
    cron_schedule="0 2 * * *",
    default_status=DefaultScheduleStatus.RUNNING,
    description="At two at night (UTC): whatever the watched studies still lack, what failed by day included.",
)
def nightly() -> list[RunRequest] | SkipReason:
    """One run for each watched study with something to do."""
    store = Store(settings.warehouse_root())
    try:
        backlog = SURVEYOR.survey(store)
    except (InputError, WarehouseError) as error:
        return SkipReason(str(error))
    # Of several nights that are caught up on, one is enough.
    day = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    return [
        RunRequest(
            run_key=f"{watched.study.name} {day}",
            run_config=run_config(watched.request, store),
            tags={WATCH_TAG: "nightly", STUDY_TAG: watched.study.name},
        )
        for watched in backlog.watch.studies
        if backlog.lacks(watched.study)
    ] or SkipReason("everything that is watched is current")


def _outdated_sensor() -> AutomationConditionSensorDefinition:
    with warnings.catch_warnings():
        # Of `use_user_code_server`; the version of Dagster is pinned.
        warnings.simplefilter("ignore", BetaWarning)
        return AutomationConditionSensorDefinition(
            "outdated",
            target=AssetSelection.all(),
            # A condition of our own would be lost in the snapshot that the daemon has.
            use_user_code_server=True,
            # A run for each partition, which can be stopped by itself.
            emit_backfills=False,
            minimum_interval_seconds=settings.watch_seconds(),
            default_status=DefaultSensorStatus.RUNNING,
            run_tags={WATCH_TAG: "outdated"},
            description="Computes again what a changed recipe, prompt set, calibration, task or program made outdated "
            "in a watched study.",
        )


OUTDATED = _outdated_sensor()


def _of_missing(
    due: Iterable[MissingWork], memory: WatchCursor, store: Store
) -> tuple[dict[str, str], list[RunRequest]]:
    """What was asked for by now, and a run for each study and model with something new to ask for."""
    known, requests = dict[str, str](), []
    for each in due:
        study = each.watched.study.name
        states = {f"{study}/{each.model}/{recipe or ''}": state for recipe, state in each.missing.items()}
        recipes = dict(zip(states, each.missing, strict=True))
        if each.changed:
            states[f"{study}/{each.model}/*"] = each.changed
        known |= states
        if new := {key: state for key, state in states.items() if memory.asked.get(key) != state}:
            # Of a model whose files have changed, the run finds out what is to be done.
            wanted = () if each.changed else dict.fromkeys(recipes[key] or "dense" for key in new)
            requests.append(
                RunRequest(
                    run_key=f"{study}/{each.model} {fingerprint(new)} {memory.times}",
                    run_config=run_config(each.watched.of_model(each.model, tuple(wanted)), store, answers=False),
                    tags={WATCH_TAG: "missing", STUDY_TAG: study, MODEL_TAG: each.model},
                )
            )
    return known, requests


def _no_longer_watched(runs: Iterable[DagsterRun], watch: WatchState) -> Iterator[DagsterRun]:
    """Runs that were started unasked for a model that has left its study since."""
    if not watch.is_whole:  # a study or model that somebody is writing just now is not gone
        return
    models = {(each.study.name, model) for each in watch.studies for model in each.origins}
    for run in runs:
        kind, model = run.tags.get(WATCH_TAG), run.tags.get(MODEL_TAG)
        if kind == "missing":
            is_watched = (run.tags.get(STUDY_TAG), model) in models
        elif kind == "outdated" and RECIPE not in (run.asset_selection or ()):
            is_watched = run.tags.get("dagster/partition", "").partition("|")[0] in {model for _, model in models}
        else:
            continue
        if not is_watched and run.status != DagsterRunStatus.CANCELING:
            yield run


def _new_partitions(studies: Iterable[Watched], instance: DagsterInstance) -> Iterator[object]:
    names: dict[DynamicPartitionsDefinition, list[str]] = {
        MODELS: [model.name for each in studies for model in each.study.models],
        RECIPES: [recipe.name for each in studies for recipe in each.study.recipes],
    }
    for dimension, wanted in names.items():
        known = set(instance.get_dynamic_partitions(str(dimension.name)))
        if new := [name for name in dict.fromkeys(wanted) if name not in known]:
            yield dimension.build_add_request(new)
