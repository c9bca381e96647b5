"""The events of tables that a study's run records without being their asset's run: materializations and checks.

Dagster adds to the materializations of an asset's own run the versions of its code and inputs, from which it tells what
is stale. A study's run writes partitions of many assets, so its events carry the same tags from here.
"""

from collections.abc import Iterator, Sequence
from itertools import product

from dagster import AssetCheckEvaluation, AssetKey, AssetMaterialization, DagsterInstance

from prunescope.assets.defs.metadata import blocking_checks, materialized
from prunescope.assets.defs.partitions import variant_key
from prunescope.assets.defs.recipe_asset import DATA_VERSION_TAG, RECIPE, latest_versions
from prunescope.assets.execution.partition_preview import command, origin
from prunescope.assets.execution.task import TableWritten
from prunescope.assets.planning.fingerprints import DenseModel, accepted
from prunescope.assets.planning.freshness import is_current
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


def missing(
    instance: DagsterInstance, study: Study, models: Sequence[DenseModel], store: Store
) -> Iterator[AssetMaterialization]:
    """Yield the materializations of current partitions that a killed process wrote and could not record.

    Their checks are not evaluated again.
    """
    for table, step in STEP_OF_TABLE.items():
        if not step.is_requested_by(study):
            continue
        known = latest_versions(instance, AssetKey(table))
        for dense, recipe in product(models, [None] if step.is_of_model else study.recipes):
            model, name = dense.spec.name, recipe.name if recipe else None
            is_known = known.get(partition_key(model, name)) in accepted(table, study, dense.identity, recipe)
            if is_known or not is_current(store, table, study, dense, recipe):
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
            yield materialization(instance, written, model)


def recorded(
    instance: DagsterInstance, written: TableWritten, model: str
) -> Iterator[AssetMaterialization | AssetCheckEvaluation]:
    """Yield the materialization of a table's partition and the results of its checks."""
    blocking = blocking_checks(TABLES[written.table])
    yield materialization(instance, written, model)
    for check in materialized(TABLES[written.table], written).check_results or ():
        yield AssetCheckEvaluation(
            asset_key=AssetKey(written.table),
            check_name=str(check.check_name),
            passed=check.passed,
            metadata=check.metadata,
            severity=check.severity,
            blocking=check.check_name in blocking,
            partition=partition_key(model, written.recipe),
        )


def materialization(instance: DagsterInstance, written: TableWritten, model: str) -> AssetMaterialization:
    """Return the materialization of a table's partition, with the versions of what it was computed from."""
    partition = partition_key(model, written.recipe)
    tags = {DATA_VERSION_TAG: written.fingerprint, _IS_OURS: "true", _CODE_VERSION: CODE_VERSIONS[written.table]}
    for parent in upstream(STEPS[written.step]):
        name, of_parent = parent.to_user_string(), partition
        if written.recipe and parent == RECIPE:
            of_parent = written.recipe
        elif name in MODEL_TABLES:
            of_parent = model
        record = instance.get_latest_data_version_record(parent, is_source=False, partition_key=of_parent)
        event = record and record.asset_materialization
        tags[f"{_INPUT_VERSION}/{name}"] = (event and event.tags and event.tags.get(DATA_VERSION_TAG)) or "INITIAL"
        tags[f"{_INPUT_EVENT}/{name}"] = str(record.storage_id) if record else "NULL"
    metadata = materialized(TABLES[written.table], written).metadata
    return AssetMaterialization(AssetKey(written.table), metadata=metadata, partition=partition, tags=tags)
