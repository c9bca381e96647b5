"""What the Dagster UI shows of a table: column schema, row count, outcome of its checks. All of it is derived.

No knowledge of any single table.
"""

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
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

from prunescope.assets.execution.task import TaskResult
from prunescope.warehouse.catalogue.column_docs import ColumnDoc
from prunescope.warehouse.catalogue.database import sql_type
from prunescope.warehouse.quality.checks import Violation, check_names
from prunescope.warehouse.quality.foreign_keys import check_name
from prunescope.warehouse.quality.plausibility_checks import drifts_of
from prunescope.warehouse.schema.table import Column, Table

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


def view_schema(
    explained: Mapping[str, ColumnDoc], types: Mapping[str, str], origins: Mapping[str, Collection[tuple[str, str]]]
) -> TableSchema:
    """The columns of a view with what each means.

    Args:
        explained: its columns.
        types: of those whose types are known, which takes an open catalogue.
        origins: the tables' columns, as (table, column), that those columns are computed from whose origin is known.
    """
    return TableSchema(
        [
            TableColumn(
                name,
                types.get(name, ""),
                description=f"{said.comment()}\n\n{_from(origins.get(name, ()))}".strip(),
                tags=_tags(said),
            )
            for name, said in explained.items()
        ]
    )


def _from(columns: Collection[tuple[str, str]]) -> str:
    tables = dict.fromkeys(table for table, _ in sorted(columns))
    told = [f"`{table}`: {', '.join(sorted(name for of, name in columns if of == table))}" for table in tables]
    return f"From {'; '.join(told)}." if told else ""


def _tags(column: Column | ColumnDoc) -> dict[str, str]:
    told = {"unit": column.unit, "formula": column.formula, "source": column.source}
    return {name: text for name, text in told.items() if text}


def table_metadata(table: Table) -> dict[str, Any]:
    """Metadata of the asset's definition."""
    return {"dagster/column_schema": table_schema(table), "grain": table.grain}


def check_specs(tables: Iterable[Table], partitions: PartitionsDefinition | None = None) -> list[AssetCheckSpec]:
    """Checks of each table: rules and foreign keys, which block what stands on it, and drifts, which warn.

    Args:
        tables: the tables.
        partitions: theirs. Each then has an outcome of its own; else that of one variant would hide another one's.
    """
    with warnings.catch_warnings():
        # Dagster calls partitions of checks a preview; its version is pinned, and a test looks at them.
        warnings.simplefilter("ignore", PreviewWarning)
        return [
            AssetCheckSpec(name, asset=table.name, blocking=blocks, description=told, partitions_def=partitions)
            for table in tables
            for name, blocks, told in _checks(table)
        ]


def _checks(table: Table) -> Iterator[tuple[str, bool, str]]:
    """The name of each check of a table, whether it blocks, and what it says."""
    yield RULES, True, f"Rules: {', '.join(check_names(table))}."
    for each in table.references:
        yield check_name(each), True, f"Every row has its row in {each.table}: {each}."
    for drift in drifts_of(table):
        yield drift.name, False, f"A warning: {drift.doc}"


def left_alone(table: Table) -> Iterator[AssetCheckResult]:
    """What an asset reports of a table that its study asks nothing of: nothing was written that could break a check."""
    told = {"note": "the study asks nothing of this table, which is as it was"}
    for name, *_ in _checks(table):
        yield AssetCheckResult(asset_key=AssetKey(table.name), check_name=name, passed=True, metadata=told)


def materialized(table: Table, report: TaskResult) -> MaterializeResult:
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
