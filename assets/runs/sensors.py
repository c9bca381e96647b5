"""The sensor and the schedule that launch runs for watched studies.

`watch` launches one run of a study for all that is missing or outdated in it, `nightly` as well for what has failed.
The sensor launches one run per state of a study and its models.
"""

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping

from dagster import (
    AssetMaterialization,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    schedule,
    sensor,
)
from pydantic import BaseModel

from prunescope.assets.defs.recipe_asset import RECIPE, latest_versions, published, register_study
from prunescope.assets.instance import settings
from prunescope.assets.instance.instance import STUDY_TAG, UNFINISHED, is_busy
from prunescope.assets.runs.dagster_job import STUDY_JOB, run_config
from prunescope.assets.watching.backlog import Backlog, FreshnessScanner
from prunescope.assets.watching.watch_list import WatchedStudy, WatchState
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.recipes import Recipe
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import fingerprint

SCANNER = FreshnessScanner()
MODELS_TAG, WATCH_TAG = "prunescope/models", "prunescope/watched"


class WatchCursor(BaseModel):
    """The state that the sensor keeps between ticks.

    Attributes:
        requested: the needs of each study (`Backlog.needs`) for which a run was requested, until they are met.
        reported: logged problems, by path or study.
        ticks: number of ticks that requested runs, part of the run keys: a model that returns in the same state gets a
            new run, but a tick that Dagster repeats after losing this cursor does not launch its runs twice.
    """

    requested: dict[str, str] = {}
    reported: dict[str, str] = {}
    ticks: int = 0


# By name, because Dagster copies job objects given to a sensor, and the copy raises a warning.
@sensor(
    name="watch",
    job_name=STUDY_JOB.name,
    minimum_interval_seconds=settings.watch_seconds(),
    default_status=DefaultSensorStatus.RUNNING,
    description="Computes what watched studies miss, and what a changed recipe, prompt set, calibration, task or code "
    "version has made outdated, then answers, figures and report; looks for new models. Stops runs of models that are "
    "no longer watched.",
)
def watch_sensor(context: SensorEvaluationContext) -> SensorResult | SkipReason:
    """Compare the warehouse with its watch list and its watched folder."""
    store = Store(settings.warehouse_root())
    cursor = WatchCursor.model_validate_json(context.cursor) if context.cursor else WatchCursor()
    try:
        backlog = SCANNER.scan(store)
    except (InputError, WarehouseError) as error:
        return SkipReason(str(error))
    for watched in backlog.watch.studies:
        register_study(context.instance, watched.study)
    for source, reason in backlog.watch.refused.items():
        if cursor.reported.get(source) != reason:
            context.log.warning(f"not watched: {reason}")
    for run in _no_longer_watched(context.instance.get_runs(RunsFilter(statuses=UNFINISHED)), backlog.watch):
        context.log.info(f"{run.job_name} {run.run_id}: a model of it is no longer watched; it is stopped")
        context.instance.run_coordinator.cancel_run(run.run_id)
    requested, requests = cursor.requested, list[RunRequest]()
    # A run that holds the warehouse may be computing the same; what it leaves is requested afterwards.
    if not is_busy(store.local(settings.cache_folder())):
        requested, requests = _requests(
            backlog, requested, store, "due", lambda needs: f"{fingerprint(needs)} {cursor.ticks}"
        )
    return SensorResult(
        run_requests=requests,
        asset_events=list(_changed_recipes(backlog.watch.studies, context.instance)),
        cursor=WatchCursor(
            requested=requested, reported=backlog.watch.refused, ticks=cursor.ticks + bool(requests)
        ).model_dump_json(),
    )


@schedule(
    name="nightly",
    job=STUDY_JOB,
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
    return _requests(backlog, {}, store, "nightly", lambda _: day)[1] or SkipReason("all watched studies are current")


def _requests(
    backlog: Backlog, requested: Mapping[str, str], store: Store, origin: str, key: Callable[[Mapping[str, str]], str]
) -> tuple[dict[str, str], list[RunRequest]]:
    """Return the needs of all studies, and one run for each study with a need that was not requested before."""
    present, requests = dict[str, str](), []
    for watched in backlog.watch.studies:
        name, needs = watched.study.name, backlog.needs(watched.study)
        if any(study == name for study, _ in backlog.of_others):
            continue  # its run would only end with the error that names the other study
        present |= needs
        if needs.items() - requested.items():
            models = ",".join(model.name for model in watched.study.models)
            requests.append(
                RunRequest(
                    run_key=f"{name} {key(needs)}",
                    run_config=run_config(watched.request, store),
                    tags={WATCH_TAG: origin, STUDY_TAG: name, MODELS_TAG: models},
                )
            )
    return present, requests


def _no_longer_watched(runs: Iterable[DagsterRun], watch: WatchState) -> Iterator[DagsterRun]:
    """Yield the sensor's runs of which a model has left its study since they were launched."""
    if not watch.is_whole:  # a study or model that is being written at the moment is not gone
        return
    models = {watched.study.name: {model.name for model in watched.study.models} for watched in watch.studies}
    for run in runs:
        launched = set(run.tags.get(MODELS_TAG, "").split(",")) - models.get(run.tags.get(STUDY_TAG, ""), set())
        if run.tags.get(WATCH_TAG) == "due" and launched and run.status != DagsterRunStatus.CANCELING:
            yield run


def _changed_recipes(studies: Iterable[WatchedStudy], instance: DagsterInstance) -> Iterator[AssetMaterialization]:
    """Yield the new versions of published recipes, which mark their variants as unsynced before a run computes them."""
    versions: dict[str, dict[str, Recipe]] = {}
    for watched in studies:
        for recipe in watched.study.recipes:
            versions.setdefault(recipe.name, {})[recipe.hash] = recipe
    for name, version in sorted(latest_versions(instance, RECIPE).items()):
        if name in versions and version not in versions[name]:
            yield published(versions[name][min(versions[name])])
