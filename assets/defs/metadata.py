"""Metadata that the Dagster UI shows of a table or view, derived from its definition: columns, checks, results."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
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

from prunescope.assets.execution.task import TableWritten
from prunescope.warehouse.catalogue.database import sql_type
from prunescope.warehouse.quality.checks import check_names
from prunescope.warehouse.quality.foreign_keys import check_name
from prunescope.warehouse.quality.plausibility_checks import PLAUSIBILITY_CHECKS
from prunescope.warehouse.schema.table import Column, ColumnDoc, Table

RULES = "keeps_its_rules"


def table_schema(table: Table) -> TableSchema:
    """Return the table's columns with units, formulas and legal values."""
    key = f"key: {', '.join(table.key)}"
    rules = [*(str(reference) for reference in table.references), *(rule.condition for rule in table.invariants)]
    return TableSchema(
        columns=[_column(column, table) for column in table.columns], constraints=TableConstraints(other=[key, *rules])
    )


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
    return TableColumn(
        column.name, sql_type(column.type), description=column.comment(), constraints=constraints, tags=_tags(column)
    )


def view_schema(docs: Mapping[str, ColumnDoc]) -> TableSchema:
    """Return the columns of a view with their documentation; `dagster/column_lineage` has their origins."""
    return TableSchema(
        [TableColumn(name, "", description=doc.comment(), tags=_tags(doc)) for name, doc in docs.items()]
    )


def _tags(column: Column | ColumnDoc) -> dict[str, str]:
    tags = {"unit": column.unit, "formula": column.formula, "source": column.source}
    return {name: text for name, text in tags.items() if text}


def table_metadata(table: Table) -> dict[str, Any]:
    """Return the metadata of the asset's definition."""
    return {"dagster/column_schema": table_schema(table), "grain": table.grain}


def check_specs(tables: Iterable[Table], partitions: PartitionsDefinition | None = None) -> list[AssetCheckSpec]:
    """Return the checks of tables: rules and foreign keys, which block downstream assets, and drifts, which warn.

    Args:
        tables: the tables.
        partitions: their partitions, each of which has its own check result.
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


def blocking_checks(table: Table) -> set[str]:
    """Return the names of a table's checks that block what is computed from it."""
    return {name for name, blocks, _ in _checks(table) if blocks}


def rounded(value: Any) -> Any:  # noqa: ANN401
    """Return a float with four significant digits, as the UI shows all digits; return other values unchanged."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def materialized(table: Table, result: TableWritten) -> MaterializeResult:
    """Convert the result of a written partition: version, sizes, details and checks."""
    key = AssetKey(table.name)
    broken = {item.check: f"{item.rows_failing} rows, first {item.example}" for item in result.violations}
    return MaterializeResult(
        asset_key=key,
        data_version=DataVersion(result.fingerprint),
        metadata={
            "dagster/row_count": result.rows,
            "bytes": result.bytes,
            "seconds": rounded(result.seconds),
            **{
                name: MetadataValue.md(value) if isinstance(value, str) else rounded(value)
                for name, value in result.details.items()
            },
            "path": MetadataValue.path(result.path),
        },
        check_results=[
            AssetCheckResult(asset_key=key, check_name=RULES, passed=not broken, metadata=broken),
            *(
                AssetCheckResult(
                    asset_key=key, check_name=check_name(reference), passed=reference.table not in result.orphaned
                )
                for reference in table.references
            ),
            *(
                AssetCheckResult(
                    asset_key=key,
                    check_name=drift.name,
                    passed=not drift.is_warning,
                    severity=AssetCheckSeverity.WARN,
                    metadata={name: rounded(figure) for name, figure in drift.figures.items()},
                )
                for drift in result.drifts
            ),
        ],
    )
