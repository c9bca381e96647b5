"""What the Dagster UI shows of a table: column schema, row count, outcome of its checks. All of it is derived.

No knowledge of any single table.
"""

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
    TableColumn,
    TableColumnConstraints,
    TableConstraints,
    TableSchema,
)

from assets.parts import Report
from warehouse.catalogue import sql_type
from warehouse.checks import Violation, check_names
from warehouse.drift import drifts_of
from warehouse.explanations import Explanation
from warehouse.references import check_name
from warehouse.schema import Column, Table

RULES = "keeps_its_rules"


def table_schema(table: Table) -> TableSchema:
    """The table's columns with units, formulas and legal values, as the UI's column view takes them."""
    key = f"key: {', '.join(table.key)}"
    rules = [*(str(reference) for reference in table.references), *(rule.condition for rule in table.invariants)]
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
    other += [f"references {each.table}" for each in table.references if column.name in each.columns]
    constraints = TableColumnConstraints(nullable=column.nullable, unique=table.key == (column.name,), other=other)
    return TableColumn(
        column.name, sql_type(column.type), description=column.comment(), constraints=constraints, tags=_tags(column)
    )


def view_schema(explained: Mapping[str, Explanation], types: Mapping[str, str]) -> TableSchema:
    """The columns of a view with what each means; types where they are known, which takes an open catalogue."""
    return TableSchema(
        [
            TableColumn(name, types.get(name, ""), description=said.comment(), tags=_tags(said))
            for name, said in explained.items()
        ]
    )


def _tags(column: Column | Explanation) -> dict[str, str]:
    told = {"unit": column.unit, "formula": column.formula, "source": column.source}
    return {name: text for name, text in told.items() if text}


def table_metadata(table: Table) -> dict[str, Any]:
    """Metadata of the asset's definition."""
    return {"dagster/column_schema": table_schema(table), "grain": table.grain}


def check_specs(tables: Iterable[Table]) -> list[AssetCheckSpec]:
    """Checks of each table: rules and foreign keys, which block what stands on it, and drifts, which warn."""
    return [
        AssetCheckSpec(name, asset=AssetKey(table.name), blocking=is_blocking, description=description)
        for table in tables
        for name, is_blocking, description in (
            (RULES, True, f"Rules: {', '.join(check_names(table))}."),
            *((check_name(each), True, f"Every row has its row in {each.table}: {each}.") for each in table.references),
            *((drift.name, False, f"A warning: {drift.doc}") for drift in drifts_of(table)),
        )
    ]


def left_alone(table: Table) -> Iterator[AssetCheckResult]:
    """What an asset reports of a table that its study asks nothing of: nothing was written that could break a check."""
    told = {"note": "the study asks nothing of this table, which is as it was"}
    for spec in check_specs([table]):
        yield AssetCheckResult(asset_key=spec.asset_key, check_name=spec.name, passed=True, metadata=told)


def materialized(table: Table, report: Report) -> MaterializeResult:
    """What an asset reports about a partition that was written: version, sizes and the outcomes of its checks."""
    return MaterializeResult(
        asset_key=AssetKey(table.name),
        data_version=DataVersion(report.fingerprint),
        metadata={
            "dagster/row_count": report.rows,
            "bytes": report.bytes,
            "seconds": report.seconds,
            **{name: MetadataValue.md(told) if isinstance(told, str) else told for name, told in report.shown.items()},
            "path": MetadataValue.path(report.path),
        },
        check_results=[
            _outcome(table, report.violations),
            *(
                AssetCheckResult(
                    asset_key=AssetKey(table.name),
                    check_name=check_name(each),
                    passed=each.table not in report.orphaned,
                )
                for each in table.references
            ),
            *(
                AssetCheckResult(
                    asset_key=AssetKey(table.name),
                    check_name=found.name,
                    passed=not found.is_warning,
                    severity=AssetCheckSeverity.WARN,
                    metadata=dict(found.figures),
                )
                for found in report.drifts
            ),
        ],
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
