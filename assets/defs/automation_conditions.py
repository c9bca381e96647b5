"""Automation conditions: true for what a watched study would compute otherwise now, and for nothing else.

They are evaluated in the code server, where `backlog.py` can look at the files. Starting the runs is Dagster's.
"""

import datetime
import json
import threading
from dataclasses import dataclass
from typing import Self

from dagster import AssetKey, AutomationCondition, AutomationContext, AutomationResult, DagsterInstance, RunsFilter
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
# Jobs that compute whatever is missing or outdated: nothing is started beside them.
STUDY_JOBS = ("study", "demo")
SURVEYOR = FreshnessScanner()


@dataclass(frozen=True)
class WarehouseState:
    """What all conditions of one tick go by.

    Attributes:
        backlog: None where nothing may start: another process computes, or the watch list is not valid.
        published: by recipe, the version that Dagster knows.
    """

    backlog: Backlog | None
    published: dict[str, str]

    @classmethod
    def now(cls, instance: DagsterInstance) -> Self:
        """Looks at files and runs."""
        store = Store(settings.warehouse_root())
        runs = instance.get_runs(RunsFilter(statuses=UNFINISHED))
        if any(run.job_name in STUDY_JOBS for run in runs) or is_busy(store.local(settings.cache_folder())):
            return cls(None, {})
        try:
            backlog = SURVEYOR.survey(store)
        except (InputError, WarehouseError):  # the sensor `watch` says so
            return cls(None, {})
        return cls(backlog, published_recipes(instance, sorted(backlog.recipe_hashes())))

    def outdated(self, asset: str) -> dict[str, str] | None:
        """The partitions of an asset to be computed again, each with the version wanted; None where none may start."""
        if self.backlog is None:
            return None
        hashes = self.backlog.recipe_hashes()
        behind = {name for name, version in self.published.items() if version not in hashes[name]}
        if asset == RECIPE.to_user_string():
            return {name: min(hashes[name]) for name in behind}
        return {
            model if recipe is None else str(variant_key(model, recipe)): wanted
            for (model, recipe), wanted in self.backlog.ready(asset).items()
            if recipe not in behind  # first the new parameters are published, which shows what is stale
        }


class _WarehouseStates:
    """Keeps the look of a tick for the other assets of the same tick."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[datetime.datetime, WarehouseState] | None = None

    def at(self, moment: datetime.datetime, instance: DagsterInstance) -> WarehouseState:
        with self._lock:
            if self._last is None or self._last[0] != moment:
                self._last = (moment, WarehouseState.now(instance))
            return self._last[1]


_LOOKS = _WarehouseStates()


class Outdated(AutomationCondition[AssetKey]):
    """True once for each partition and version that is wanted of it, while no run is about to compute it."""

    @property
    def description(self) -> str:
        """What the UI shows."""
        return "A watched study gives this partition other inputs than it was made from"

    async def evaluate(self, context: AutomationContext) -> AutomationResult:
        """Asks for what was not asked for before; what failed is left alone until something changes."""
        view = context.asset_graph_view
        wanted = _LOOKS.at(context.evaluation_time, view.instance).outdated(context.key.to_user_string())
        asked = json.loads(context.cursor or "{}")
        if wanted is None:  # a look at which nothing may start tells nothing
            return AutomationResult(context, view.get_empty_subset(key=context.key), cursor=json.dumps(asked))
        running = [
            await view.compute_run_in_progress_subset(key=context.key, from_subset=context.candidate_subset),
            await view.compute_backfill_in_progress_subset(key=context.key, from_subset=context.candidate_subset),
        ]
        known = set(context.candidate_subset.expensively_compute_partition_keys())
        under_way = {key for subset in running for key in subset.expensively_compute_partition_keys()}
        new = {key for key, version in wanted.items() if asked.get(key) != version} & known - under_way
        # Kept for as long as it is outdated.
        kept = {key: version for key, version in asked.items() if wanted.get(key) == version}
        return AutomationResult(
            context,
            true_subset=view.get_subset_from_partition_keys(context.key, context.partitions_def, new),
            cursor=json.dumps(kept | {key: wanted[key] for key in sorted(new)}),
        )


def published_recipes(instance: DagsterInstance, names: list[str]) -> dict[str, str]:
    """The versions of recipes that Dagster knows; those that were never published are left out."""
    found = instance.event_log_storage.get_latest_tags_by_partition(
        RECIPE, DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG], asset_partitions=names
    )
    return {name: tags[DATA_VERSION_TAG] for name, tags in found.items() if DATA_VERSION_TAG in tags}
