"""What the web interface calls stale: whatever stands, however far down, on something that has changed.

Dagster itself compares a partition only with what stands right above it. No run is started by what this says.
"""

from collections.abc import Iterator

from dagster._core.definitions import data_version
from dagster._core.definitions.data_version import (
    CachingStaleStatusResolver,
    DataProvenance,
    DataVersion,
    StaleCause,
    StaleCauseCategory,
    extract_data_version_from_entry,
)
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.event_api import EventLogRecord
from dagster._core.workspace import context
from dagster._utils.cached_method import cached_method

from prunescope.assets.defs.automation_conditions import RECIPE

# Of how many partitions of a table a question, figure or report is compared with; above that it is called fresh.
MOST_PARTITIONS = 500


class Staleness(CachingStaleStatusResolver):
    """Dagster's comparison, handed on from each partition to all that stands on it.

    Dependencies on `recipe` of all that follows from it would show the same of recipes without code of ours. But of
    everything that was made before they were there Dagster would say for ever that it has a new dependency, 65 lines
    would hide the path that a reader of the graph looks for, and a changed program would still reach one step only.
    """

    def _get_stale_causes_materialized(self, key: AssetKeyPartitionKey) -> Iterator[StaleCause]:
        yield from super()._get_stale_causes_materialized(key)
        for above in self._get_partition_dependencies(key=key):
            causes = self._get_stale_causes(key=above)
            if above.partition_key is not None and key.partition_key is None:
                causes = self._since(key, above)
            if causes:
                yield StaleCause(key, StaleCauseCategory.DATA, "stands on what is stale", above, causes)

    def _since(self, key: AssetKeyPartitionKey, above: AssetKeyPartitionKey) -> list[StaleCause]:
        """Why a partition is stale, as far as it became so after an answer over all partitions was made.

        A partition that no study wants any more stays stale; answers made since then are as good as they can be.
        """
        made = self._stored(key)
        return [cause for cause in self._get_stale_root_causes(key=above) if self._stored(cause.key) > made]

    def _is_dep_updated(self, provenance: DataProvenance, dep_key: AssetKeyPartitionKey) -> bool:
        seen = provenance.input_storage_ids[dep_key.asset_key]
        if dep_key.partition_key is None or seen is None:
            return super()._is_dep_updated(provenance, dep_key)
        return self._is_changed_since(key=dep_key, seen=seen)

    @cached_method
    def _is_changed_since(self, *, key: AssetKeyPartitionKey, seen: int) -> bool:
        """As Dagster compares, which asks the database for every answer anew: that takes a minute for 90 variants."""
        latest = self._get_latest_data_version_record(key=key)
        if latest is None or latest.storage_id <= seen:
            return False
        before = self._instance.get_latest_data_version_record(
            key.asset_key, is_source=False, partition_key=key.partition_key, before_cursor=seen + 1
        )
        if before is None:  # a new partition, but of a recipe: of what was made from one nobody published, who knows
            return key.asset_key != RECIPE
        return _version(before) != _version(latest)

    def _stored(self, key: AssetKeyPartitionKey) -> int:
        """The place of its latest version in the order of all events."""
        record = self._get_latest_data_version_record(key=key)
        return record.storage_id if record else 0


def _version(record: EventLogRecord) -> DataVersion | None:
    return extract_data_version_from_entry(record.event_log_entry)


def install() -> None:
    """Lets the web interface of this process go by it."""
    context.CachingStaleStatusResolver = Staleness
    data_version.SKIP_PARTITION_DATA_VERSION_DEPENDENCY_THRESHOLD = MOST_PARTITIONS
