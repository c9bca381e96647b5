"""The rule by which the web interface marks an asset as unsynced: something upstream of it has changed, however far.

Dagster's code says stale for this and compares a partition with its direct parents only. Here, stale is what a run
computes again, by the fingerprints of its inputs; runs do not depend on this module.
"""

from collections.abc import Iterator

from dagster import DataProvenance

# Dagster has no public hook for staleness, and its own comparison stops at the first asset after a change.
# test_staleness shows both, so it fails if Dagster changes.
from dagster._core.definitions import data_version
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleCause, StaleCauseCategory
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.workspace import context

# A question, figure or report is compared with at most so many partitions of a table; with more it is called fresh.
MAX_PARTITIONS = 500


class Staleness(CachingStaleStatusResolver):
    """Dagster's comparison, passed on from each partition to everything downstream.

    The same could be had without this class by making every table depend on `recipe`. But then Dagster would report a
    new dependency for all older results forever, 65 more edges would clutter the graph, and a changed code version
    would still reach direct children only.
    """

    def _get_stale_causes_materialized(self, key: AssetKeyPartitionKey) -> Iterator[StaleCause]:
        yield from super()._get_stale_causes_materialized(key)
        made = self._storage_id(key)
        for parent in self._get_partition_dependencies(key=key):
            causes = self._get_stale_causes(key=parent)
            if parent.partition_key is not None and key.partition_key is None:
                # A partition that no study requests any more stays unsynced; answers that are newer need not be.
                roots = self._get_stale_root_causes(key=parent)
                causes = [cause for cause in roots if self._storage_id(cause.key) > made]
            if causes:
                yield StaleCause(key, StaleCauseCategory.DATA, "has an unsynced asset upstream", parent, causes)

    def _is_dep_updated(self, provenance: DataProvenance, dep_key: AssetKeyPartitionKey) -> bool:
        # Dagster asks the database for each answer and partition, a minute for 90 variants, even if nothing is newer.
        read = provenance.input_storage_ids[dep_key.asset_key]
        is_older = dep_key.partition_key is not None and read is not None and self._storage_id(dep_key) <= read
        return not is_older and super()._is_dep_updated(provenance, dep_key)

    def _storage_id(self, key: AssetKeyPartitionKey) -> int:
        """Return the position of the latest version in Dagster's event log."""
        record = self._get_latest_data_version_record(key=key)
        return record.storage_id if record else 0


def install() -> None:
    """Replace Dagster's comparison in the web interface of this process."""
    context.CachingStaleStatusResolver = Staleness
    data_version.SKIP_PARTITION_DATA_VERSION_DEPENDENCY_THRESHOLD = MAX_PARTITIONS
