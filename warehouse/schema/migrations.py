"""Conversion of rows of an earlier version of a table to its present columns; files are never rewritten."""

from collections.abc import Mapping

import duckdb
import pyarrow as pa

from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.schema.table import VERSION_KEY, Migration, Table


def version_of(table: Table, schema: pa.Schema) -> int | None:
    """Return the version of the table with which a file was written; None if its columns match no version.

    The oldest files do not name their version: then it is the newest one with exactly these columns and types.
    """
    columns = dict(zip(schema.names, schema.types, strict=True))
    stored = (schema.metadata or {}).get(VERSION_KEY)
    versions = range(table.version, 0, -1) if stored is None else [int(stored)]
    return next((version for version in versions if columns == table.stored(version)), None)


def lacks(table: Table, version: int) -> list[str]:
    """Return the present columns that are NULL for files of a version."""
    computed = {name for migration in _later(table, version) for name in migration.computed}
    return [column.name for column in table.columns if column.since > version and column.name not in computed]


def upgraded(table: Table, rows: pa.Table) -> pa.Table:
    """Return the rows of a file with the table's present columns in their order; missing columns are NULL.

    If the file matches no version, only the columns that it shares with the table are read.

    Raises:
        WarehouseError: a column of a file that matches no version does not fit its type.
    """
    version = version_of(table, rows.schema)
    if version == table.version:
        return rows
    for migration in _later(table, version):
        rows = _migrated(rows, migration)
    columns, fields = [], []
    for field in table.arrow():
        fields.append(field.with_nullable(True))
        try:
            column = rows[field.name] if field.name in rows.column_names else pa.nulls(rows.num_rows, field.type)
            columns.append(column.cast(field.type) if column.type != field.type else column)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise WarehouseError(
                f"table {table.name}: column {field.name} is stored as {column.type}, not as {field.type}; "
                "run its study again"
            ) from error
    return pa.Table.from_arrays(columns, schema=pa.schema(fields, metadata=rows.schema.metadata))


def relation(table: Table, typed: Mapping[str, str], sources: Mapping[int | None, str]) -> str:
    """Return the SELECT over files of several versions that gives the rows of `upgraded`.

    `typed` has the table's present columns, quoted, with their SQL types, and `sources` per version (None: no version)
    the SQL after FROM that reads the files with all their columns.
    """
    empty = f"SELECT {', '.join(f'NULL::{of} AS {name}' for name, of in typed.items())} WHERE false"
    names = ", ".join(typed)
    selects = []
    for version, source in sources.items():
        if version == table.version:
            selects.append(f"SELECT {names} FROM {source}")  # noqa: S608 - names of ours
            continue
        read = f"SELECT * FROM {source}"  # noqa: S608
        for migration in _later(table, version):
            replaced = ", ".join(column.name for column in migration.replaced)
            kept = f"* EXCLUDE ({replaced})" if replaced else "*"
            read = f"SELECT {kept}, {_computed(migration)} FROM ({read})"  # noqa: S608
        casts = ", ".join(f"CAST({name} AS {of}) AS {name}" for name, of in typed.items())
        selects.append(f"SELECT {casts} FROM ({empty} UNION ALL BY NAME {read})")  # noqa: S608
    return " UNION ALL ".join(selects) if selects else empty


def _later(table: Table, version: int | None) -> list[Migration]:
    """Return the migrations for a file of a version, in order; empty if the file matches no version."""
    return [] if version is None else [migration for migration in table.migrations if migration.to > version]


def _migrated(rows: pa.Table, migration: Migration) -> pa.Table:
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        computed = connection.sql(f"SELECT {_computed(migration)} FROM rows").to_arrow_table()  # noqa: S608
    rows = rows.drop_columns([column.name for column in migration.replaced])
    for name in migration.computed:
        rows = rows.append_column(name, computed[name])
    return rows


def _computed(migration: Migration) -> str:
    return ", ".join(f"{expression} AS {name}" for name, expression in migration.computed.items())
