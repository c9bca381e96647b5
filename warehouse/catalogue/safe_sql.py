"""Execution of a user's SQL so that it can only read the warehouse.

Two independent safeguards: the syntax tree of the statement is checked, and the engine is locked.
"""

import json
import re
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import duckdb
import pyarrow as pa

from prunescope.warehouse.catalogue.database import connected
from prunescope.warehouse.core.errors import SqlError, UnsafeSqlError
from prunescope.warehouse.core.limits import GIBIBYTES, SECONDS
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.snapshot import damage_explained

RESULT_BYTES = 1 << 30
_BATCH = 1_000_000  # rows
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
    *("duckdb_columns", "duckdb_tables", "duckdb_views", "duckdb_functions"),
}
# Scalar functions that do more than compute from their arguments.
_SCALARS = {
    *("write_log", "nextval", "currval", "setval", "sleep_ms", "getenv", "current_setting", "getvariable"),
    *("json_execute_serialized_sql", "add_parquet_key", "query", "query_table"),
}
_INTERNAL = ("duckdb_", "pragma_", "sqlite_", "pg_")
_SHOWN = {'"tables"', "__show_tables_expanded"}
_NAME = re.compile(r"\w+")
# Comments that end at the same place whether or not comments nest: otherwise one could hide a statement from the check.
_BLANK = r"(?:\s|/\*(?:(?!/\*|\*/).)*\*/|--[^\n\r]*[\n\r])"
_EXPLAIN = re.compile(rf"{_BLANK}*EXPLAIN{_BLANK}+(?:ANALYZE{_BLANK}+)?", re.IGNORECASE | re.DOTALL)
# Without a name these show also the internal schema with the files under the tables.
_SHOW_ALL = re.compile(r"\s*(?:DESCRIBE|SHOW\s+ALL\s+TABLES)\s*;?\s*", re.IGNORECASE)
_ALL_TABLES = "SELECT * FROM (SHOW ALL TABLES) WHERE schema = 'main'"


def run_safe(
    root: Place | str,
    sql: str,
    parameters: Sequence[object] | Mapping[str, object] | None = None,
    *,
    seconds: float = SECONDS,
    gibibytes: float = GIBIBYTES,
    models: Collection[str] | None = None,
) -> pa.Table:
    """Return the rows of one SELECT over the warehouse.

    WITH, VALUES, FROM first, DESCRIBE, SUMMARIZE, SHOW TABLES and EXPLAIN of a SELECT count as SELECT.

    Args:
        root: the warehouse.
        sql: one statement.
        parameters: values for `?` and `$n`, or by name for `$name`.
        seconds: time limit.
        gibibytes: memory limit; nothing is spilled to disk.
        models: models whose partitions are visible; all where None.

    Raises:
        UnsafeSqlError: the statement does more than read the warehouse's tables and views; the message names the rule.
        SqlError: it is no SQL, has unknown names, fails, or takes too much time or memory.
        DamagedFileError: a file that it reads is damaged; the message names the file.
        WarehouseError: the warehouse cannot be opened.
    """
    with connected(root, safe=True, gibibytes=gibibytes, models=models) as connection:
        return answer(connection, sql, parameters, seconds=seconds)


def answer(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    parameters: Sequence[object] | Mapping[str, object] | None = None,
    *,
    seconds: float = SECONDS,
    rows: int | None = None,
    size: int = RESULT_BYTES,
) -> pa.Table:
    """Return the rows of one SELECT on an open connection; refuse any other statement before it runs.

    Args:
        connection: from `database.connect(..., safe=True)`; another thread may interrupt it.
        sql: one statement, as in `run_safe`.
        parameters: as in `run_safe`.
        seconds: time limit.
        rows: number of rows to fetch; all where None.
        size: limit of the answer's bytes in Arrow's format.

    Raises:
        UnsafeSqlError, SqlError, DamagedFileError: as `run_safe`.
    """
    if _SHOW_ALL.fullmatch(sql):
        sql = _ALL_TABLES
    check(connection, sql)
    timer = threading.Timer(seconds, connection.interrupt)
    timer.start()
    try:
        with damage_explained(connection):
            return _fetched(connection, sql, parameters, rows, size)
    except duckdb.InterruptException as error:
        raise SqlError(f"the SQL ran longer than {seconds:g} s; ask for less, or give it more (--seconds)") from error
    except duckdb.OutOfMemoryException as error:
        raise SqlError(
            "the SQL needs more memory than it may have; aggregate earlier, or give it more (--memory)"
        ) from error
    except (duckdb.Error, pa.ArrowException, OSError) as error:
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
    except (duckdb.Error, RecursionError, UnicodeEncodeError) as error:
        raise SqlError(f"SQL that cannot be parsed: {_short(error)}") from error
    if parsed["error"]:
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
        if name not in _TABLE_FUNCTIONS:
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
    if schema and schema[-1].lower() == "information_schema":
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
) -> pa.Table:
    reader = connection.sql(sql, params=parameters).to_arrow_reader(
        _BATCH if rows is None else max(1, min(rows, _BATCH))
    )
    batches, fetched, used = [], 0, 0
    for batch in reader:
        batches.append(batch if rows is None else batch.slice(0, rows - fetched))
        fetched += batches[-1].num_rows
        used += batches[-1].nbytes
        if used > size:
            raise SqlError(f"the result is larger than {_binary(size)}; aggregate it or add a LIMIT")
        if fetched == rows:
            break
    return pa.Table.from_batches(batches, reader.schema)


def _binary(size: int) -> str:
    return f"{size >> 30} GiB" if size >= 1 << 30 else f"{size >> 20} MiB"


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
