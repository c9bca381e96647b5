"""The automation condition of tables and recipes: true for partitions that a watched study has made outdated.

Dagster evaluates it in the code server, which can read the warehouse, and launches the runs.
"""

import datetime
import json
import threading
from dataclasses import dataclass
from typing import Self

from dagster import AssetKey, AutomationCondition, AutomationContext, AutomationResult, DagsterInstance, RunsFilter

# Dagster has no public way to read the data versions of many partitions at once; the tests of sensors depend on it.
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.events import DagsterEventType

from prunescope.assets import settings
from prunescope.assets.defs.partitions import variant_key
from prunescope.assets.instance.instance import UNFINISHED, is_busy
from prunescope.assets.watching.backlog import Backlog, FreshnessScanner
from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.partition_store import Store

RECIPE = AssetKey("recipe")
# Jobs that compute all that is missing or outdated; while one is unfinished, the condition is false.
STUDY_JOBS = ("study", "demo")
SCANNER = FreshnessScanner()


@dataclass(frozen=True)
class WarehouseState:
    """The state of warehouse and runs that all conditions of one tick share.

    Attributes:
        backlog: None where no run may start: another process computes, or the watch list is not valid.
        published: by recipe, the version that Dagster knows.
    """

    backlog: Backlog | None
    published: dict[str, str]

    @classmethod
    def now(cls, instance: DagsterInstance) -> Self:
        """Read the warehouse and the unfinished runs."""
        store = Store(settings.warehouse_root())
        runs = instance.get_runs(RunsFilter(statuses=UNFINISHED))
        if any(run.job_name in STUDY_JOBS for run in runs) or is_busy(store.local(settings.cache_folder())):
            return cls(None, {})
        try:
            backlog = SCANNER.scan(store)
        except (InputError, WarehouseError):  # the sensor `watch` reports the error
            return cls(None, {})
        return cls(backlog, published_recipes(instance, sorted(backlog.recipe_hashes())))

    def outdated(self, asset: str) -> dict[str, str] | None:
        """Return the outdated partitions of an asset and their new versions; None where no run may start."""
        if self.backlog is None:
            return None
        hashes = self.backlog.recipe_hashes()
        behind = {name for name, version in self.published.items() if version not in hashes[name]}
        if asset == RECIPE.to_user_string():
            return {name: min(hashes[name]) for name in behind}
        return {
            model if recipe is None else str(variant_key(model, recipe)): version
            for (model, recipe), version in self.backlog.ready(asset).items()
            if recipe not in behind  # the new parameters are published first, which marks the variants as stale
        }


class _WarehouseStates:
    """The state of the last tick, shared by all assets of that tick."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[datetime.datetime, WarehouseState] | None = None

    def at(self, moment: datetime.datetime, instance: DagsterInstance) -> WarehouseState:
        with self._lock:
            if self._last is None or self._last[0] != moment:
                self._last = (moment, WarehouseState.now(instance))
            return self._last[1]


_STATES = _WarehouseStates()


class Outdated(AutomationCondition[AssetKey]):
    """A condition that fires once per outdated partition and target version, unless a run of that partition is due."""

    @property
    def description(self) -> str:
        """Return the description in the UI."""
        return "A watched study now has other inputs than those that this partition was computed from"

    async def evaluate(self, context: AutomationContext) -> AutomationResult:
        """Request versions that were not requested before; a failed run is not repeated until something changes."""
        view = context.asset_graph_view
        outdated = _STATES.at(context.evaluation_time, view.instance).outdated(context.key.to_user_string())
        asked = json.loads(context.cursor or "{}")
        if outdated is None:
            return AutomationResult(context, view.get_empty_subset(key=context.key), cursor=json.dumps(asked))
        running = [
            await view.compute_run_in_progress_subset(key=context.key, from_subset=context.candidate_subset),
            await view.compute_backfill_in_progress_subset(key=context.key, from_subset=context.candidate_subset),
        ]
        known = set(context.candidate_subset.expensively_compute_partition_keys())
        in_progress = {key for subset in running for key in subset.expensively_compute_partition_keys()}
        new = {key for key, version in outdated.items() if asked.get(key) != version} & known - in_progress
        still_outdated = {key: version for key, version in asked.items() if outdated.get(key) == version}
        return AutomationResult(
            context,
            true_subset=view.get_subset_from_partition_keys(context.key, context.partitions_def, new),
            cursor=json.dumps(still_outdated | {key: outdated[key] for key in sorted(new)}),
        )


def published_recipes(instance: DagsterInstance, names: list[str]) -> dict[str, str]:
    """Return the versions of recipes in Dagster's event log; recipes that were never published are left out."""
    tags_by_recipe = instance.event_log_storage.get_latest_tags_by_partition(
        RECIPE, DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG], asset_partitions=names
    )
    return {name: tags[DATA_VERSION_TAG] for name, tags in tags_by_recipe.items() if DATA_VERSION_TAG in tags}
