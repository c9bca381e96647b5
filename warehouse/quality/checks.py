"""Checks that a table's definition implies, run on the rows of one partition in SQL."""

import functools
import os
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from prunescope.pipelines.core.quoting import literal, quoted
from prunescope.warehouse.schema.table import Column, Table

NOT_EMPTY, KEY_UNIQUE = "not_empty", "key_is_unique"
NOT_NULL, FINITE, IN_RANGE, LEGAL_VALUES = "no_unexpected_null", "finite", "in_range", "legal_values"


@dataclass(frozen=True)
class Violation:
    """Rows that violate one check.

    Attributes:
        check: one of `check_names`.
        example: description of one such row, always the same one.
    """

    check: str
    rows_failing: int
    example: str

    def __str__(self) -> str:
        """Return one sentence for a footer or a log."""
        return f"{self.check}: {self.rows_failing} rows, such as {self.example}"


@dataclass(frozen=True)
class _Test:
    """A SQL condition that is true for a failing row, and the value in its message."""

    check: str
    fails: str
    shown: str
    rule: str


def check_names(table: Table) -> list[str]:
    """Return the names of the checks that `violations` runs for this table, in order."""
    kinds = dict.fromkeys(test.check for test in _tests(table))
    return [*([] if table.may_be_empty else [NOT_EMPTY]), KEY_UNIQUE, *kinds]


def violations(table: Table, rows: pa.Table) -> list[Violation]:
    """Run all checks of the table on these rows.

    NaN and infinity violate `finite`; NULL violates only `no_unexpected_null`, and an invariant that is NULL holds.
    """
    if rows.num_rows == 0:
        return [] if table.may_be_empty else [Violation(NOT_EMPTY, 0, "the partition has no row")]
    tests = _tests(table)
    key = ", ".join(quoted(name) for name in table.key)
    # Planning a count for each test takes longer than running them, so the counts are only for rows that fail one.
    fails = " OR ".join(["false", *(f"({test.fails})" for test in tests)])
    # Without an aggregate the query would return one row per row.
    query = f"SELECT max((SELECT count(*) FROM (SELECT DISTINCT {key} FROM rows))), bool_or({fails}) FROM rows"  # noqa: S608
    with engine(os.getpid()).cursor() as connection:
        connection.register("rows", _widened(rows))
        # Names and conditions come from the table's definition, never from data.
        distinct, is_failing = _one(connection, query)
        violated = []
        if distinct != rows.num_rows:
            query = f"SELECT {key} FROM rows GROUP BY {key} HAVING count(*) > 1 ORDER BY ALL LIMIT 1"  # noqa: S608
            repeated = _one(connection, query)
            violated.append(Violation(KEY_UNIQUE, rows.num_rows - distinct, f"{_named(table, repeated)} repeats"))
        if not is_failing:
            return violated
        counts = ", ".join(f"count(*) FILTER (WHERE {test.fails})" for test in tests)
        for test, count in zip(tests, _one(connection, f"SELECT {counts} FROM rows"), strict=True):  # noqa: S608
            if count:
                query = f"SELECT {test.shown}, {key} FROM rows WHERE {test.fails} ORDER BY ALL LIMIT 1"  # noqa: S608
                shown, *where = _one(connection, query)
                example = f"{test.rule.format(shown=shown)} at {_named(table, where)}"
                violated.append(Violation(test.check, count, example))
    return violated


@functools.cache
def engine(_process: int) -> duckdb.DuckDBPyConnection:
    """Return the database of this process, since none can be used after a fork.

    Creating a database takes ten times as long as checking a small partition. Rows are registered with a cursor: only
    the cursor sees them, and they are released with it.
    """
    return duckdb.connect()


def _widened(rows: pa.Table) -> pa.Table:
    """Convert float16 lists to float32, because DuckDB reads float16 from Parquet and not from Arrow."""
    halves = pa.list_(pa.float16())
    fields = [field.with_type(pa.list_(pa.float32())) if field.type == halves else field for field in rows.schema]
    return rows.cast(pa.schema(fields))


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> list[Any]:
    [row] = connection.execute(query).fetchall()
    return list(row)


def _named(table: Table, values: list[object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in zip(table.key, values, strict=True))


def _tests(table: Table) -> list[_Test]:
    tests = [test for column in table.columns for test in _column_tests(column)]
    # Sorted by kind, so that the order of names does not depend on the columns.
    tests.sort(key=lambda test: [NOT_NULL, FINITE, IN_RANGE, LEGAL_VALUES].index(test.check))
    for invariant in table.invariants:
        rule = invariant.condition.replace("{", "{{").replace("}", "}}") + " is false"
        tests.append(_Test(invariant.name, f"NOT ({invariant.condition})", "NULL", rule))
    return tests


def _column_tests(column: Column) -> list[_Test]:
    name, tests = quoted(column.name), []
    if not column.nullable:
        tests.append(_Test(NOT_NULL, f"{name} IS NULL", "NULL", f"{column.name} is NULL"))
    floating = pa.types.is_floating(column.type)
    if floating:
        tests.append(_Test(FINITE, f"NOT isfinite({name})", name, f"{column.name} = {{shown}}"))
    elif pa.types.is_list(column.type) and pa.types.is_floating(column.type.value_type):
        fails = f"len(list_filter({name}, lambda x: NOT isfinite(x))) > 0"
        tests.append(_Test(FINITE, fails, name, f"{column.name} = {{shown}}"))
    finite = f"isfinite({name}) AND " if floating else ""
    for bound, sign, where in ((column.minimum, "<", "below"), (column.maximum, ">", "above")):
        if bound is not None:
            rule = f"{column.name} = {{shown}} is {where} {bound}"
            tests.append(_Test(IN_RANGE, f"{finite}{name} {sign} {bound!r}", name, rule))
    if column.values:
        legal = ", ".join(literal(value) for value in column.values)
        rule = f"{column.name} = {{shown}} is none of {', '.join(column.values)}"
        tests.append(_Test(LEGAL_VALUES, f"{name} NOT IN ({legal})", name, rule))
    return tests
