"""Metadata of tables and views for Dagster: columns and checks of definitions, results and events of partitions.

Dagster adds to the materializations of an asset's own run the versions of its code and inputs, from which it tells what
is unsynced. A study's run writes partitions of many assets, so its events carry the same tags from here.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any

from dagster import (
    AssetCheckEvaluation,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    AssetMaterialization,
    DagsterInstance,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    PartitionsDefinition,
    PreviewWarning,
    TableColumn,
    TableColumnConstraints,
    TableConstraints,
    TableSchema,
)

from prunescope.assets.defs.recipe_asset import DATA_VERSION_TAG, latest_versions
from prunescope.assets.execution.partition_context import made_from
from prunescope.assets.execution.task import TableWritten
from prunescope.assets.planning.fingerprints import DenseModel, accepted
from prunescope.assets.planning.freshness import is_current
from prunescope.assets.planning.steps import CODE_VERSIONS, MODEL_TABLES, STEP_OF_TABLE, STEPS
from prunescope.pipelines.studies import Study
from prunescope.warehouse.quality.checks import check_names
from prunescope.warehouse.quality.foreign_keys import check_name
from prunescope.warehouse.quality.plausibility_checks import PLAUSIBILITY_CHECKS
from prunescope.warehouse.schema.table import Column, Table, sql_type
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import read_footer
from prunescope.warehouse.tables import TABLES

RULES = "keeps_its_rules"


def _column(column: Column, table: Table) -> TableColumn:
    other = ["part of the key"] if column.name in table.key else []
    if column.minimum is not None:
        other.append(f">= {column.minimum:g}")
    if column.maximum is not None:
        other.append(f"<= {column.maximum:g}")
    if column.values:
        other.append(f"one of {', '.join(column.values)}")
    other += [f"references {reference.table}" for reference in table.references if column.name in reference.columns]
    constraints = TableColumnConstraints(nullable=column.nullable, unique=table.key == (column.name,), other=other)
    return TableColumn(column.name, sql_type(column.type), description=column.comment(), constraints=constraints)


def table_metadata(table: Table) -> dict[str, Any]:
    """Return the metadata of the asset's definition: grain, and columns with units, formulas and legal values."""
    key = f"key: {', '.join(table.key)}"
    rules = [*(str(reference) for reference in table.references), *(rule.condition for rule in table.invariants)]
    columns = [_column(column, table) for column in table.columns]
    schema = TableSchema(columns=columns, constraints=TableConstraints(other=[key, *rules]))
    return {"dagster/column_schema": schema, "grain": table.grain}


def check_specs(tables: Iterable[Table], partitions: PartitionsDefinition | None = None) -> list[AssetCheckSpec]:
    """Return the checks of tables: rules and foreign keys, which block downstream assets, and drifts, which warn.

    Each of the tables' `partitions` has its own check results.
    """
    with warnings.catch_warnings():
        # Partitioned checks are in preview; the version of Dagster is pinned, and a test covers them.
        warnings.simplefilter("ignore", PreviewWarning)
        return [
            AssetCheckSpec(name, asset=table.name, blocking=blocks, description=text, partitions_def=partitions)
            for table in tables
            for name, blocks, text in _checks(table)
        ]


def _checks(table: Table) -> Iterator[tuple[str, bool, str]]:
    """Yield name, whether it blocks, and description of each check of a table."""
    yield RULES, True, f"Rules: {', '.join(check_names(table))}."
    for reference in table.references:
        yield check_name(reference), True, f"Every row has its row in {reference.table}: {reference}."
    for drift in PLAUSIBILITY_CHECKS.get(table.name, ()):
        yield drift.name, False, f"A warning: {drift.doc}"


def _shown(value: Any) -> Any:  # noqa: ANN401
    """Return a value as the UI shows it well: Markdown, or a float with four significant digits."""
    if isinstance(value, str):
        return MetadataValue.md(value)
    return float(f"{value:.4g}") if isinstance(value, float) else value


def materialized(table: Table, result: TableWritten) -> MaterializeResult:
    """Convert the result of a written partition: version, sizes, details and checks."""
    key = AssetKey(table.name)
    checked = partial(AssetCheckResult, asset_key=key)
    broken = {item.check: f"{item.rows_failing} rows, first {item.example}" for item in result.violations}
    return MaterializeResult(
        asset_key=key,
        data_version=DataVersion(result.fingerprint),
        metadata={
            "dagster/row_count": result.rows,
            "bytes": result.bytes,
            "seconds": _shown(result.seconds),
            **{name: _shown(value) for name, value in result.details.items()},
            "path": MetadataValue.path(result.path),
        },
        check_results=[
            checked(check_name=RULES, passed=not broken, metadata=broken),
            *(checked(check_name=check_name(one), passed=one.table not in result.orphaned) for one in table.references),
            *(
                checked(
                    check_name=drift.name,
                    passed=not drift.is_warning,
                    severity=AssetCheckSeverity.WARN,
                    metadata={name: _shown(figure) for name, figure in drift.figures.items()},
                )
                for drift in result.drifts
            ),
        ],
    )


def partition_key(model: str, recipe: str | None) -> str:
    """Return Dagster's key of a partition of a table."""
    return f"{model}|{recipe}" if recipe else model


def unrecorded(
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
                details={"made from": made_from(footer.provenance, dense.spec.source)},
            )
            yield materialization(instance, written, model)


def recorded(
    instance: DagsterInstance, written: TableWritten, model: str
) -> Iterator[AssetMaterialization | AssetCheckEvaluation]:
    """Yield the materialization of a table's partition and the results of its checks."""
    yield materialization(instance, written, model)
    for check in materialized(TABLES[written.table], written).check_results or ():
        yield AssetCheckEvaluation(
            asset_key=AssetKey(written.table),
            check_name=str(check.check_name),
            passed=check.passed,
            metadata=check.metadata,
            severity=check.severity,
            blocking=check.severity == AssetCheckSeverity.ERROR,
            partition=partition_key(model, written.recipe),
        )


def materialization(instance: DagsterInstance, written: TableWritten, model: str) -> AssetMaterialization:
    """Return the materialization of a table's partition, with the versions of what it was computed from."""
    partition = partition_key(model, written.recipe)
    # Dagster has no public names for its tags; the tests of staleness read them through Dagster.
    tags = {
        DATA_VERSION_TAG: written.fingerprint,
        "dagster/data_version_is_user_provided": "true",
        "dagster/code_version": CODE_VERSIONS[written.table],
    }
    for parent in STEPS[written.step].upstream:
        of_parent = written.recipe if parent == "recipe" else model if parent in MODEL_TABLES else partition
        record = instance.get_latest_data_version_record(AssetKey(parent), is_source=False, partition_key=of_parent)
        event = record and record.asset_materialization
        known = event.tags if event and event.tags else {}
        tags[f"dagster/input_data_version/{parent}"] = known.get(DATA_VERSION_TAG) or "INITIAL"
        tags[f"dagster/input_event_pointer/{parent}"] = str(record.storage_id) if record else "NULL"
    metadata = materialized(TABLES[written.table], written).metadata
    return AssetMaterialization(AssetKey(written.table), metadata=metadata, partition=partition, tags=tags)
