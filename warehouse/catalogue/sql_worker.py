"""Process that runs one statement for `sql_process.SqlProcess`, within limits of the kernel and on a locked DuckDB.

Its input is JSON, its output the rows, and its last message JSON.
"""

import io
import json
import os
import re
import resource
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import duckdb
import pyarrow as pa

from prunescope.pipelines.core.quoting import quoted
from prunescope.warehouse.catalogue.database import connect, views_file
from prunescope.warehouse.catalogue.scope import narrow
from prunescope.warehouse.catalogue.sql_process import Setup
from prunescope.warehouse.core import formats
from prunescope.warehouse.core.errors import (
    TOO_LARGE,
    DamagedFileWarning,
    SqlError,
    SqlSizeError,
    WarehouseError,
    too_large_result,
)
from prunescope.warehouse.core.limits import RESULT_BYTES
from prunescope.warehouse.storage.location import place_of
from prunescope.warehouse.storage.snapshot import damage_explained

_Parameters: TypeAlias = Sequence[object] | Mapping[str, object] | None
_SIZES = Path("/proc/self/statm")
# Share of the memory limit that DuckDB's own accounting leaves out, such as a scalar function's text.
_UNCOUNTED = 0.15
# DESCRIBE, SUMMARIZE and SHOW are of type SELECT.
_TYPES = {"SELECT", "EXPLAIN"}
# Rows of a batch.
_BATCH = 100_000
# Types without an exact equivalent in Arrow and Parquet; and those of which Python cannot hold every value.
_TEXT_TYPES = {"union", "interval", "bit", "bignum", "variant", "geometry", "uhugeint", "time with time zone"}
_TIMES = {"date", "time", "time_ns", "timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns"} | {
    "timestamp with time zone"
}
# Formats convert nested values by recursion.
_MAX_NESTING = 50
# Characters of a message, which may quote the whole statement.
_MESSAGE = 300
# Parts of messages of allocations that fail outside of DuckDB's own accounting, and of files that it may not open.
_NO_MEMORY = re.compile("Out of Memory Error|bad allocation|Allocation failure|[Ff]ailed to allocate")
_NO_FILE = re.compile("LocalFileSystem has been disabled|disabled (?:by|through) configuration")


def main() -> None:
    """Answer the statement that the parent sends."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DamagedFileWarning)
            views_file()  # it is built, if needed, while the parent still imports
            if not (request := sys.stdin.buffer.read()):  # the parent is gone, or needs no answer
                return
            fields, (query, layout, seconds) = map(json.loads, request.splitlines())
            setup = Setup(**fields)
            connection = opened(setup)
            _limit_memory(connection, setup.gibibytes)
        signal.setitimer(signal.ITIMER_REAL, seconds)  # the kernel then ends this process
        ending: dict[str, Any] = {"rows": write(connection, sys.stdout.buffer, query, layout)}
        sys.stdout.flush()
    except Exception as error:
        ending = failure(error)
    damaged = [str(each.message) for each in caught if issubclass(each.category, DamagedFileWarning)]
    sys.stderr.write("\n" + json.dumps(ending | {"warnings": damaged}))
    sys.stderr.flush()
    os._exit(0)  # freeing all memory first takes time


def opened(setup: Setup) -> duckdb.DuckDBPyConnection:
    """Open the warehouse on a locked connection."""
    connection = connect(place_of(setup.root), safe=True, gibibytes=setup.gibibytes, models=setup.models)
    if setup.scope is not None:
        narrow(connection, *setup.scope)
    return connection


def _limit_memory(connection: duckdb.DuckDBPyConnection, gibibytes: float) -> None:
    """Let the kernel limit the memory that is allocated from now on."""
    # DuckDB's threads have their memory before the limit counts.
    connection.execute("SELECT count(*) FROM range(1000000) WHERE range % 7 = 3").fetchall()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _SIZES.exists():  # on Linux, whose kernel alone keeps to this limit
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        used = int(_SIZES.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        size = used + int(gibibytes * (1 + _UNCOUNTED) * (1 << 30))
        resource.setrlimit(resource.RLIMIT_AS, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))


def write(
    connection: duckdb.DuckDBPyConnection, sink: BinaryIO, query: Mapping[str, Any], layout: Mapping[str, Any]
) -> int:
    """Write the rows of a statement and return their number.

    `query` has arguments of `answer`, `layout` those of `formats.write`; errors are theirs, too.
    """
    rows = answer(connection, **query, keeps_times=layout["to"] in {"arrow", "parquet"})
    content = _Limited(query["size"])
    formats.write(rows, sink=content, **layout)
    sink.write(content.getbuffer())
    return int(rows.num_rows)


def failure(error: Exception) -> dict[str, Any]:
    """Return the class and message of the error that the parent raises."""
    text, is_of_sql = str(error), isinstance(error, (duckdb.Error, pa.ArrowException, OSError, UnicodeError))
    if isinstance(error, (duckdb.OutOfMemoryException, MemoryError)) or (is_of_sql and _NO_MEMORY.search(text)):
        error = SqlSizeError(TOO_LARGE)
    elif isinstance(error, RecursionError):  # such as of DuckDB's types
        error = SqlError("SQL: it is nested too deep")
    elif is_of_sql:
        error = SqlError(f"SQL: {_short(text)}")
    elif not isinstance(error, WarehouseError):
        error = RuntimeError(f"{type(error).__name__} in the process for SQL: {text}")
    return {"error": type(error).__name__, "message": str(error)}


def _short(message: str) -> str:
    """Return DuckDB's message in one line, without the class of the error and the excerpt of the statement."""
    if _NO_FILE.search(message):
        return "only the warehouse's tables and views can be read (see SHOW TABLES), no files"
    message, _, excerpt = message.strip().partition("\n\nLINE ")
    # The schema under the tables is not for users, so hints at it do not help.
    message = re.sub(r"\s*Did you mean \"files\.[^\n]*", "", message)
    message = " ".join(re.sub(r"^[A-Z]\w+(?: \w+)* Error: ", "", message).split())
    message = message if len(message) <= _MESSAGE else f"{message[:_MESSAGE]}…"
    return f"{message} (line {excerpt.partition(':')[0]})" if excerpt and not excerpt.startswith("1:") else message


def answer(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    parameters: _Parameters = None,
    *,
    rows: int | None = None,
    size: int = RESULT_BYTES,
    keeps_times: bool = False,
) -> pa.Table:
    """Return the rows of one statement that reads, on a connection from `database.connect(..., safe=True)`.

    Columns of which Arrow, Parquet or Python cannot hold every value (see `_needs_text`) have DuckDB's texts; dates and
    times, too, unless `keeps_times` is set and they are not nested.

    Raises:
        SqlError: the statement is not a single SELECT, EXPLAIN, DESCRIBE, SUMMARIZE or SHOW, or its rows have more
            bytes than `size`.
        DamagedFileError: a file that it reads is damaged; the message names the file.
        duckdb.Error: the statement fails.
    """
    statement = _single(connection, sql)
    batches, used = list[pa.RecordBatch](), 0
    # EXPLAIN ANALYZE executes also what writes; it must change nothing for the next statement.
    with damage_explained(connection), connection.cursor() as cursor:
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        relation = _with_texts(cursor.sql(statement, params=parameters), keeps_times)
        with (relation if rows is None else relation.limit(rows)).to_arrow_reader(_BATCH) as reader:
            for batch in reader:
                batches.append(batch)
                used += batch.nbytes
                if used > size:
                    raise SqlSizeError(too_large_result(size))
            return pa.Table.from_batches(batches, reader.schema)


def _single(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """Return the statement, of a type that reads."""
    statements = connection.extract_statements(sql.encode().decode())  # half a character raises UnicodeError
    if not statements:
        raise SqlError("there is no SQL to run; give one SELECT")
    if len(statements) > 1:
        raise SqlError(f"only one statement is allowed; these are {len(statements)}")
    kind = ""
    with suppress(ValueError):  # a type that Python's module does not know, as of UPDATE EXTENSIONS
        kind = statements[0].type.name
    if kind not in _TYPES:
        # DuckDB turns a PIVOT without IN into several statements.
        hint = " (a PIVOT needs IN (...))" if kind == "MULTI" else ""
        raise SqlError(
            f"only SELECT, EXPLAIN, DESCRIBE, SUMMARIZE and SHOW are allowed; the warehouse is read-only{hint}"
        )
    return statements[0]


def _with_texts(relation: duckdb.DuckDBPyRelation, keeps_times: bool) -> duckdb.DuckDBPyRelation:
    """Convert the columns to text of which Arrow, Parquet or Python cannot hold every value."""
    needs_text = [_needs_text(of, keeps_times) for of in relation.types]
    columns = (
        f"{f'CAST(#{index} AS VARCHAR)' if is_text else f'#{index}'} AS {quoted(name)}"
        for index, (name, is_text) in enumerate(zip(relation.columns, needs_text, strict=True), 1)
    )
    return relation.project(", ".join(columns)) if any(needs_text) else relation


def _needs_text(of: duckdb.sqltypes.DuckDBPyType, keeps_times: bool, depth: int = 0) -> bool:
    is_odd_time = of.id in _TIMES and (depth or not keeps_times)
    if of.id in _TEXT_TYPES or is_odd_time or depth > _MAX_NESTING:
        return True
    children = of.children if of.id in {"list", "array", "map", "struct", "tuple"} else []
    # The other child of an array is its size.
    types = (child for _, child in children if isinstance(child, duckdb.sqltypes.DuckDBPyType))
    return any(_needs_text(child, keeps_times, depth + 1) for child in types)


class _Limited(io.BytesIO):
    """Bytes in memory up to a size; text in JSON or CSV may be several times as large as its rows."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def write(self, data: bytes) -> int:  # type: ignore[override]  # Arrow and Python give bytes
        if self.tell() + len(data) > self._size:
            raise SqlSizeError(too_large_result(self._size))
        return super().write(data)


if __name__ == "__main__":
    main()
