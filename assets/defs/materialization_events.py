"""The events of tables that a study's run records without being their asset's run: materializations and checks.

Dagster adds to the materializations of an asset's own run the versions of its code and inputs, from which it tells what
is stale. A study's run writes partitions of many assets, so its events carry the same tags from here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

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
from prunescope.assets.defs.recipe_asset import DATA_VERSION_TAG, RECIPE, latest_versions
from prunescope.assets.execution.partition_preview import command, origin
from prunescope.assets.execution.task import TableWritten
from prunescope.assets.planning.fingerprints import DenseModel, accepted
from prunescope.assets.planning.steps import CODE_VERSIONS, MODEL_TABLES, STEP_OF_TABLE, STEPS, Step
from prunescope.pipelines.studies import Study
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import read_footer
from prunescope.warehouse.tables import TABLES

# Dagster has no public names for its tags; the tests of staleness read them through Dagster.
_CODE_VERSION, _INPUT_VERSION, _INPUT_EVENT = (
    "dagster/code_version",
    "dagster/input_data_version",
    "dagster/input_event_pointer",
)
_IS_OURS = "dagster/data_version_is_user_provided"


def upstream(step: Step) -> list[AssetKey]:
    """Return the assets that a step's tables are computed from."""
    known = {
        "models": [],
        "calibration": [AssetKey("models")],
        "search": [AssetKey("models"), AssetKey("activation_stats")],
        "variants": [RECIPE, *map(AssetKey, MODEL_TABLES)],
    }
    return known.get(step.name, [AssetKey("variants")])


def partition_key(model: str, recipe: str | None) -> str:
    """Return Dagster's key of a partition of a table."""
    return str(variant_key(model, recipe)) if recipe else model


@dataclass
class MaterializationEvents:
    """The events of one run; the last event of each input is looked up once."""

    instance: DagsterInstance
    _latest: dict[tuple[AssetKey, str], EventLogRecord | None] = field(default_factory=dict)

    def missing(self, study: Study, models: Sequence[DenseModel], store: Store) -> Iterator[AssetMaterialization]:
        """Yield the materializations of current partitions that a killed process wrote and could not record.

        Their checks are not evaluated again.
        """
        for table, step in STEP_OF_TABLE.items():
            if not step.is_requested_by(study):
                continue
            recorded = latest_versions(self.instance, AssetKey(table))
            for dense, recipe in product(models, [None] if step.is_of_model else study.recipes):
                model, name = dense.spec.name, recipe.name if recipe else None
                versions = set(accepted(table, study, dense.identity, recipe))
                if recorded.get(partition_key(model, name)) in versions:
                    continue
                if not any(store.is_current(TABLES[table], model, name, version) for version in versions):
                    continue
                path = store.path(TABLES[table], model, name)
                footer = read_footer(path)
                written = TableWritten(
                    name,
                    step.name,
                    table,
                    fingerprint=footer.provenance.fingerprint,
                    rows=footer.rows,
                    bytes=int(path.stat().st_size),
                    path=str(path),
                    seconds=footer.provenance.seconds,
                    details={
                        "ask": command(table, model, name, str(store.root)),
                        "made from": origin(footer.provenance, dense.spec.source),
                    },
                )
                yield self.materialization(written, model)

    def written(self, written: TableWritten, model: str) -> Iterator[AssetMaterialization | AssetCheckEvaluation]:
        """Yield the materialization of a table's partition and the results of its checks."""
        materialization = self.materialization(written, model)
        yield materialization
        key = AssetKey(written.table)
        blocking = blocking_checks(TABLES[written.table])
        for check in materialized(TABLES[written.table], written).check_results or ():
            yield AssetCheckEvaluation(
                asset_key=key,
                check_name=str(check.check_name),
                passed=check.passed,
                metadata=check.metadata,
                severity=check.severity,
                blocking=check.check_name in blocking,
                partition=materialization.partition,
            )

    def materialization(self, written: TableWritten, model: str) -> AssetMaterialization:
        """Return the materialization of a table's partition, with the versions of what it was computed from."""
        key, partition = AssetKey(written.table), partition_key(model, written.recipe)
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
        self._latest.pop((key, partition), None)
        metadata = materialized(TABLES[written.table], written).metadata
        return AssetMaterialization(key, metadata=metadata, partition=partition, tags=tags)

    def _record(self, key: AssetKey, partition: str) -> EventLogRecord | None:
        if (key, partition) not in self._latest:
            filters = AssetRecordsFilter(key, asset_partitions=[partition])
            records = self.instance.fetch_materializations(filters, limit=1).records
            self._latest[key, partition] = records[0] if records else None
        return self._latest[key, partition]
