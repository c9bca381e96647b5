"""What the Dagster UI shows of a table: column schema, row count, outcome of its checks. All of it is derived.

No knowledge of any single table.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    TableColumn,
    TableColumnConstraints,
    TableConstraints,
    TableSchema,
)

from warehouse.checks import Violation, check_names
from warehouse.schema import Column, Table
from warehouse.store import Written

RULES = "keeps_its_rules"


def table_schema(table: Table) -> TableSchema:
    """The table's columns with units, formulas and legal values, as the UI's column view takes them."""
    key = f"key: {', '.join(table.key)}"
    rules = [invariant.condition for invariant in table.invariants]
    return TableSchema(
        columns=[_column(column, table) for column in table.columns],
        constraints=TableConstraints(other=[key, *rules]),
    )


def _column(column: Column, table: Table) -> TableColumn:
    other = ["part of the key"] if column.name in table.key else []
    if column.minimum is not None:
        other.append(f">= {column.minimum:g}")
    if column.maximum is not None:
        other.append(f"<= {column.maximum:g}")
    if column.values:
        other.append(f"one of {', '.join(column.values)}")
    constraints = TableColumnConstraints(nullable=column.nullable, unique=table.key == (column.name,), other=other)
    return TableColumn(column.name, str(column.type), description=column.comment(), constraints=constraints)


def table_metadata(table: Table) -> dict[str, Any]:
    """Metadata of the asset's definition."""
    return {"dagster/column_schema": table_schema(table), "grain": table.grain}


def check_specs(tables: Iterable[Table]) -> list[AssetCheckSpec]:
    """One blocking check for each table, which stands for all rules that follow from its definition."""
    return [
        AssetCheckSpec(
            RULES, asset=AssetKey(table.name), blocking=True, description=f"Rules: {', '.join(check_names(table))}."
        )
        for table in tables
    ]


def materialized(
    table: Table, written: Written, fingerprint: str, extra: Mapping[str, Any] | None = None
) -> MaterializeResult:
    """What an asset reports about a partition that it wrote: version, sizes and the outcome of its check."""
    return MaterializeResult(
        asset_key=AssetKey(table.name),
        data_version=DataVersion(fingerprint),
        metadata={
            "dagster/row_count": written.rows,
            "bytes": written.bytes,
            "path": MetadataValue.path(str(written.path)),
            **(extra or {}),
        },
        check_results=[_outcome(table, written.violations)],
    )


def _outcome(table: Table, violations: Iterable[Violation]) -> AssetCheckResult:
    broken = {violation.check: f"{violation.rows_failing} rows, first {violation.example}" for violation in violations}
    return AssetCheckResult(
        asset_key=AssetKey(table.name),
        check_name=RULES,
        passed=not broken,
        severity=AssetCheckSeverity.ERROR,
        metadata=broken,
    )
