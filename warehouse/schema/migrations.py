"""Conversion of rows of an earlier version of a table to its present columns; files are never rewritten."""

from collections.abc import Mapping

import duckdb
import pyarrow as pa

from prunescope.pipelines.core.quoting import quoted
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.schema.table import VERSION_KEY, Migration, Table, sql_type


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
    schema = pa.schema([field.with_nullable(True) for field in table.arrow()], metadata=rows.schema.metadata)
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        try:
            return connection.sql(relation(table, {version: "rows"})).to_arrow_table().cast(schema)
        except duckdb.Error as error:
            reason = str(error).partition("\n")[0]
            raise WarehouseError(
                f"table {table.name}: a file of other columns does not fit it ({reason}); run its study again"
            ) from error


def relation(table: Table, sources: Mapping[int | None, str]) -> str:
    """Return the SELECT that gives the rows of files of several versions with the table's present columns.

    `sources` has per version (None: no version) the SQL after FROM that reads the files with all their columns.
    """
    typed = {quoted(column.name): sql_type(column.type) for column in table.columns}
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
            computed = ", ".join(f"{expression} AS {name}" for name, expression in migration.computed.items())
            read = f"SELECT {kept}, {computed} FROM ({read})"  # noqa: S608
        casts = ", ".join(f"CAST({name} AS {of}) AS {name}" for name, of in typed.items())
        selects.append(f"SELECT {casts} FROM ({empty} UNION ALL BY NAME {read})")  # noqa: S608
    return " UNION ALL ".join(selects) if selects else empty


def _later(table: Table, version: int | None) -> list[Migration]:
    """Return the migrations for a file of a version, in order; empty if the file matches no version."""
    return [] if version is None else [migration for migration in table.migrations if migration.to > version]
