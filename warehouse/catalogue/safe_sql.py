"""Check and execution of a user's SQL so that it can only read the warehouse.

The syntax tree of the statement is checked, and the engine is locked; `sql_process` adds the limits of the kernel.
"""

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import duckdb
import pyarrow as pa

from prunescope.warehouse.catalogue.database import LISTINGS
from prunescope.warehouse.core.errors import (
    TOO_LARGE,
    SqlError,
    SqlSizeError,
    SqlTimeError,
    UnsafeSqlError,
    too_large_result,
    too_long,
)
from prunescope.warehouse.core.limits import RESULT_BYTES, SECONDS
from prunescope.warehouse.core.quoting import quoted
from prunescope.warehouse.storage.snapshot import damage_explained

# Rows of a batch. DuckDB cuts each of its vectors, of 2,048 rows, into batches of fewer, which takes seconds of a long
# answer of which one row is wanted.
_BATCH, _VECTOR = 100_000, 2048
# Types without an exact equivalent in Arrow and Parquet; and those of which Python cannot hold every value, which
# `formats` converts where they are not nested.
_TEXT_TYPES = {"union", "interval", "bit", "bignum", "variant", "geometry", "uhugeint", "time with time zone"}
_TIMES = {"date", "time", "time_ns", "timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns"} | {
    "timestamp with time zone"
}
# Part of the messages of allocations that fail outside of DuckDB's own accounting.
_NO_MEMORY = re.compile("bad allocation|Allocation failure|[Ff]ailed to allocate")
# Formats convert nested values by recursion.
_MAX_NESTING = 50
# DuckDB's parser tries every interpretation of unclosed parentheses, and cannot be interrupted.
DEPTH = 500

# Every node of DuckDB's syntax tree that is not an expression must be one of these. Since version 2 a CTE of a SELECT
# may contain COPY, INSERT, UPDATE or DELETE, so unknown nodes are refused.
_NODES = {
    *("SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"),
    *("BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EXPRESSION_LIST", "EMPTY", "PIVOT", "SHOW_REF"),
    *("ORDER_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER"),
    *("ASCENDING", "DESCENDING", "ORDER_DEFAULT"),
}
_TABLE_FUNCTIONS = {
    *("range", "generate_series", "unnest", "repeat", "repeat_row", "json_each", "json_tree"),
    *(*LISTINGS, "duckdb_functions"),
}
# Scalar functions that do more than compute from their arguments.
_SCALARS = {
    *("write_log", "nextval", "currval", "setval", "sleep_ms", "getenv", "current_setting", "getvariable"),
    *("json_execute_serialized_sql", "add_parquet_key", "query", "query_table", "pg_get_viewdef"),
}
_INTERNAL = ("duckdb_", "pragma_", "sqlite_", "pg_")
_SHOWN = {'"tables"', "__show_tables_expanded"}
_NAME = re.compile(r"\w+")
# Comments that end at the same place whether or not comments nest: otherwise one could hide a statement from the check.
_BLANK = r"(?:\s|/\*(?:(?!/\*|\*/).)*\*/|--[^\n\r]*[\n\r])"
_EXPLAIN = re.compile(rf"{_BLANK}*EXPLAIN{_BLANK}+(?:ANALYZE{_BLANK}+)?", re.IGNORECASE | re.DOTALL)


def answer(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    parameters: Sequence[object] | Mapping[str, object] | None = None,
    *,
    seconds: float = SECONDS,
    rows: int | None = None,
    size: int = RESULT_BYTES,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of one SELECT on an open connection; refuse any other statement before it runs.

    Runs in this process, where some expressions and the parser exceed every limit: SQL from other people belongs into
    `sql_process.SqlProcess`.

    Args:
        connection: from `database.connect(..., safe=True)`; another thread may interrupt it.
        sql: one statement. WITH, VALUES, FROM first, DESCRIBE, SUMMARIZE, SHOW TABLES and EXPLAIN of a SELECT count as
            SELECT.
        parameters: values for `?` and `$n`, or by name for `$name`.
        seconds: time limit of all batches together.
        rows: number of rows to fetch; all where None.
        size: limit of the answer's bytes in Arrow's format.

    Yields:
        At least one batch, which may be empty. A column of which Arrow, Parquet or Python cannot hold every value (see
        `_needs_text`) has DuckDB's texts.

    Raises:
        UnsafeSqlError: the statement does more than read the warehouse's tables and views; the message names the rule.
        SqlError: it is no SQL, has unknown names, fails, or takes too much time or memory.
        DamagedFileError: a file that it reads is damaged; the message names the file.
    """
    check(connection, sql)
    is_late = threading.Event()

    def stop() -> None:
        is_late.set()
        connection.interrupt()

    timer = threading.Timer(seconds, stop)
    timer.start()
    try:
        with damage_explained(connection):
            yield from _fetched(connection, sql, parameters, rows, size)
    except duckdb.InterruptException as error:
        raise SqlTimeError(too_long(seconds)) from error
    except (duckdb.OutOfMemoryException, MemoryError, pa.ArrowMemoryError) as error:
        raise SqlSizeError(TOO_LARGE) from error
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        if is_late.is_set():  # rows that are read in batches fail with Arrow's errors
            raise SqlTimeError(too_long(seconds)) from error
        if _NO_MEMORY.search(str(error)):
            raise SqlSizeError(TOO_LARGE) from error
        raise SqlError(f"SQL: {_short(error)}") from error
    finally:
        timer.cancel()


def check(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Check that SQL is one SELECT over tables and views, or EXPLAIN of one.

    Raises:
        UnsafeSqlError: it is not; the message names the rule.
        SqlError: it cannot be parsed.
    """
    if max(accumulate((char == "(") - (char == ")") for char in sql), default=0) > DEPTH:
        raise SqlError(f"SQL: parentheses are nested deeper than {DEPTH}")
    if explained := _EXPLAIN.match(sql):
        sql = sql[explained.end() :]
    try:
        [(serialized,)] = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
        parsed = json.loads(serialized)
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        raise SqlSizeError(TOO_LARGE) from error
    except (duckdb.Error, RecursionError, UnicodeEncodeError) as error:
        raise SqlError(f"SQL that cannot be parsed: {_short(error)}") from error
    if parsed["error"]:
        if _NO_MEMORY.search(parsed["error_message"]):
            raise SqlSizeError(TOO_LARGE)
        if parsed["error_type"] == "not implemented":
            # DuckDB turns a PIVOT without IN into several statements.
            hint = " (a PIVOT needs IN (...))" if re.search(r"\bPIVOT\b", sql, re.IGNORECASE) else ""
            raise UnsafeSqlError(f"only SELECT is allowed here; the warehouse is read-only{hint}")
        raise SqlError(f"SQL: {parsed['error_message']}{_position(sql, parsed)}")
    statements = parsed["statements"]
    if not statements:
        raise SqlError("there is no SQL to run; give one SELECT")
    if len(statements) > 1:
        raise UnsafeSqlError(f"only one statement is allowed; these are {len(statements)}")
    for node in _walk(statements[0]["node"]):
        _check_node(node)


def _walk(tree: object) -> Iterator[dict[str, Any]]:
    """Yield all objects of the syntax tree, without recursion, because its depth is the user's choice."""
    pending = [tree]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield item
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _check_node(node: dict[str, Any]) -> None:
    if "class" in node:
        name = str(node.get("function_name", "")).lower()
        if name in _SCALARS:
            raise UnsafeSqlError(f"function {name} is not allowed: it does more than compute")
        return
    kind = node.get("type")
    if isinstance(kind, str) and kind not in _NODES:
        raise UnsafeSqlError(f"only SELECT is allowed, in a WITH too; this contains {kind.partition('_')[0]}")
    if kind == "TABLE_FUNCTION":
        name = str(node["function"]["function_name"]).lower()
        if name not in _TABLE_FUNCTIONS or node["function"]["catalog"] not in {"", "memory"}:
            raise UnsafeSqlError(
                f"table function {name} is not allowed: SQL reads tables and views only (see SHOW TABLES)"
            )
    elif kind == "BASE_TABLE":
        _check_name(node["qualified_name"]["path"])
    elif kind == "SHOW_REF" and node["table_name"] and node["table_name"] not in _SHOWN:
        if node["show_type"] == "SHOW_SPECIAL":
            raise UnsafeSqlError(f"SHOW {node['table_name']} is not allowed; SHOW TABLES is")
        _check_name(node["qualified_name"]["path"])


def _check_name(path: list[str]) -> None:
    """Raise UnsafeSqlError for a table that is a file, in another database, or internal to the engine."""
    *schema, name = path
    if not _NAME.fullmatch(name):
        raise UnsafeSqlError(f"{name!r} is not allowed as a table: files cannot be read, only tables and views")
    if [part.lower() for part in schema] == ["information_schema"]:
        return
    if any(part.lower() not in {"main", "memory"} for part in schema):
        raise UnsafeSqlError(f"{'.'.join(path)} is not allowed: only the warehouse's own tables and views")
    if name.lower().startswith(_INTERNAL) and name.lower() not in _TABLE_FUNCTIONS:
        raise UnsafeSqlError(f"{name} is not allowed: it shows the engine, not the warehouse")


def _fetched(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    parameters: Sequence[object] | Mapping[str, object] | None,
    rows: int | None,
    size: int,
) -> Iterator[pa.RecordBatch]:
    relation = _with_texts(connection.sql(sql, params=parameters))
    reader = relation.to_arrow_reader(_BATCH if rows is None else min(max(rows, _VECTOR), _BATCH))
    fetched, used, batch = 0, 0, None
    for batch in reader:
        if rows is not None:
            batch = batch.slice(0, rows - fetched)  # noqa: PLW2901
        fetched += batch.num_rows
        used += batch.nbytes
        if used > size:
            raise SqlSizeError(too_large_result(size))
        yield batch
        if fetched == rows:
            break
    if batch is None:
        yield pa.record_batch([pa.nulls(0, field.type) for field in reader.schema], reader.schema)


def _with_texts(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Convert the columns to text of which Arrow, Parquet or Python cannot hold every value."""
    needs_text = [_needs_text(of) for of in relation.types]
    if not any(needs_text):
        return relation
    columns = zip(relation.columns, needs_text, strict=True)
    return relation.project(
        ", ".join(
            f"{f'CAST(#{index} AS VARCHAR)' if is_text else f'#{index}'} AS {quoted(name)}"
            for index, (name, is_text) in enumerate(columns, 1)
        )
    )


def _needs_text(of: duckdb.sqltypes.DuckDBPyType) -> bool:
    pending = [(of, 0)]
    while pending:
        each, depth = pending.pop()
        if each.id in _TEXT_TYPES or (depth and each.id in _TIMES) or depth > _MAX_NESTING:
            return True
        if each.id in {"list", "array", "map", "struct", "tuple"}:
            # The other child of an array is its size.
            types = [child for _, child in each.children if isinstance(child, duckdb.sqltypes.DuckDBPyType)]
            pending += [(child, depth + 1) for child in types]
    return False


def _short(error: Exception) -> str:
    """Return DuckDB's message without the excerpt of the statement and the class of the error."""
    message = str(error).partition("\n\nLINE ")[0].strip()
    # The schema under the tables is not accessible, so hints at it do not help.
    message = re.sub(r"\s*Did you mean \"files\.[^\n]*", "", message)
    return " ".join(re.sub(r"^[A-Z]\w+(?: \w+)* Error: ", "", message).split())


def _position(sql: str, parsed: dict[str, Any]) -> str:
    """Return line and column at which the parser stopped."""
    position = str(parsed.get("position", ""))
    if not position.isdecimal():
        return ""
    before = sql.encode()[: int(position)].decode(errors="replace")
    return f" (line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))})"
