"""The events of tables that a whole study's run has written: for each partition a materialization and its checks.

Dagster adds to the materializations of an asset's own run the versions of its code and inputs, from which it tells what
is stale. A study's run writes partitions of many assets, so its events carry the same tags from here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from dagster import (
    AssetCheckEvaluation,
    AssetKey,
    AssetMaterialization,
    AssetRecordsFilter,
    DagsterInstance,
    EventLogRecord,
)

from prunescope.assets.defs.metadata import blocking_checks, materialized
from prunescope.assets.defs.partitions import variant_key
from prunescope.assets.defs.recipe_asset import DATA_VERSION_TAG
from prunescope.assets.defs.table_assets import upstream
from prunescope.assets.execution.task import TableWritten
from prunescope.assets.planning.steps import CODE_VERSIONS, MODEL_TABLES, STEPS
from prunescope.warehouse.tables import TABLES

# Dagster has no public names for its tags; the tests of staleness read them through Dagster.
_CODE_VERSION, _INPUT_VERSION, _INPUT_EVENT = (
    "dagster/code_version",
    "dagster/input_data_version",
    "dagster/input_event_pointer",
)
_IS_OURS = "dagster/data_version_is_user_provided"


@dataclass
class RecordedTables:
    """The events of one run; the last event of each input is looked up once."""

    instance: DagsterInstance
    _latest: dict[tuple[AssetKey, str], EventLogRecord | None] = field(default_factory=dict)

    def events(self, written: TableWritten, model: str) -> Iterator[AssetMaterialization | AssetCheckEvaluation]:
        """Yield the materialization of a table's partition and the results of its checks."""
        result, key = materialized(TABLES[written.table], written), AssetKey(written.table)
        partition = str(variant_key(model, written.recipe)) if written.recipe else model
        tags = {DATA_VERSION_TAG: written.fingerprint, _IS_OURS: "true", _CODE_VERSION: CODE_VERSIONS[written.table]}
        for parent in upstream(STEPS[written.step]):
            of_parent = partition
            if written.recipe and parent.to_user_string() in MODEL_TABLES:
                of_parent = model
            elif written.recipe and parent.to_user_string() == "recipe":
                of_parent = written.recipe
            record, name = self._record(parent, of_parent), parent.to_user_string()
            event = record and record.asset_materialization
            tags[f"{_INPUT_VERSION}/{name}"] = (event and event.tags and event.tags.get(DATA_VERSION_TAG)) or "INITIAL"
            tags[f"{_INPUT_EVENT}/{name}"] = str(record.storage_id) if record else "NULL"
        yield AssetMaterialization(key, metadata=result.metadata, partition=partition, tags=tags)
        self._latest.pop((key, partition), None)
        blocking = blocking_checks(TABLES[written.table])
        for check in result.check_results or ():
            yield AssetCheckEvaluation(
                asset_key=key,
                check_name=str(check.check_name),
                passed=check.passed,
                metadata=check.metadata,
                severity=check.severity,
                blocking=check.check_name in blocking,
                partition=partition,
            )

    def _record(self, key: AssetKey, partition: str) -> EventLogRecord | None:
        if (key, partition) not in self._latest:
            filters = AssetRecordsFilter(key, asset_partitions=[partition])
            records = self.instance.fetch_materializations(filters, limit=1).records
            self._latest[key, partition] = records[0] if records else None
        return self._latest[key, partition]
