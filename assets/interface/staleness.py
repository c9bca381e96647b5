"""Staleness in the web interface: an asset is stale if anything upstream of it, at any distance, has changed.

Dagster itself compares a partition with its direct parents only. Runs do not depend on this.
"""

from collections.abc import Iterator
from typing import Any

from dagster import DataProvenance, EventLogRecord

# Dagster has no public hook for staleness, and its own comparison stops at the first asset behind a change.
# test_staleness shows both, so it fails if Dagster changes.
from dagster._core.definitions import data_version
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleCause, StaleCauseCategory
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.workspace import context

from prunescope.assets.defs.recipe_asset import DATA_VERSION_TAG, RECIPE

# A question, figure or report is compared with at most so many partitions of a table; with more it is called fresh.
MAX_PARTITIONS = 500


class Staleness(CachingStaleStatusResolver):
    """Dagster's comparison, passed on from each partition to everything downstream.

    The same could be had without this class by making every table depend on `recipe`. But then Dagster would report a
    new dependency for all older results forever, 65 more edges would clutter the graph, and a changed code version
    would still reach direct children only.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - Dagster's own
        """Compare nothing yet."""
        super().__init__(*arguments, **options)
        self._changed: dict[tuple[AssetKeyPartitionKey, int], bool] = {}

    def _get_stale_causes_materialized(self, key: AssetKeyPartitionKey) -> Iterator[StaleCause]:
        yield from super()._get_stale_causes_materialized(key)
        for parent in self._get_partition_dependencies(key=key):
            causes = self._get_stale_causes(key=parent)
            if parent.partition_key is not None and key.partition_key is None:
                causes = self._since(key, parent)
            if causes:
                yield StaleCause(key, StaleCauseCategory.DATA, "has a stale asset upstream", parent, causes)

    def _since(self, key: AssetKeyPartitionKey, parent: AssetKeyPartitionKey) -> list[StaleCause]:
        """Return the causes of a stale partition that are newer than an unpartitioned asset downstream of it.

        A partition that no study requests any more stays stale; answers that are newer need not be.
        """
        made = self._storage_id(key)
        return [cause for cause in self._get_stale_root_causes(key=parent) if self._storage_id(cause.key) > made]

    def _is_dep_updated(self, provenance: DataProvenance, dep_key: AssetKeyPartitionKey) -> bool:
        read = provenance.input_storage_ids[dep_key.asset_key]
        if dep_key.partition_key is None or read is None:
            return super()._is_dep_updated(provenance, dep_key)
        return self._is_changed_since(dep_key, read)

    def _is_changed_since(self, key: AssetKeyPartitionKey, storage_id: int) -> bool:
        """Compare as Dagster does, but once: Dagster queries the database per answer, a minute for 90 variants."""
        if (key, storage_id) not in self._changed:
            latest, is_changed = self._get_latest_data_version_record(key=key), False
            if latest is not None and latest.storage_id > storage_id:
                before = self._instance.get_latest_data_version_record(
                    key.asset_key, is_source=False, partition_key=key.partition_key, before_cursor=storage_id + 1
                )
                # New: a change, unless it is a recipe, whose variant may be older than its publication.
                is_changed = key.asset_key != RECIPE if before is None else _version(before) != _version(latest)
            self._changed[key, storage_id] = is_changed
        return self._changed[key, storage_id]

    def _storage_id(self, key: AssetKeyPartitionKey) -> int:
        """Return the position of the latest version in Dagster's event log."""
        record = self._get_latest_data_version_record(key=key)
        return record.storage_id if record else 0


def _version(record: EventLogRecord) -> str | None:
    event = record.asset_materialization
    return event.tags.get(DATA_VERSION_TAG) if event and event.tags else None


def install() -> None:
    """Replace Dagster's comparison in the web interface of this process."""
    context.CachingStaleStatusResolver = Staleness
    data_version.SKIP_PARTITION_DATA_VERSION_DEPENDENCY_THRESHOLD = MAX_PARTITIONS
