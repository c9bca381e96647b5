"""Process that runs users' SQL for `sql_process.SqlProcess`: `python -m prunescope.warehouse.catalogue.sql_worker FD`.

Messages to it are pickles, because its parent is trusted; those from it are Arrow's bytes and JSON.
"""

import json
import sys
import warnings
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from prunescope.warehouse.catalogue.sql_process import GRACE_SECONDS, GRACE_SHARE, Setup
from prunescope.warehouse.core import confinement
from prunescope.warehouse.core.errors import TOO_LARGE, SqlError, SqlSizeError, WarehouseError, too_large_result
from prunescope.warehouse.core.program import PACKAGE

if TYPE_CHECKING:
    import duckdb

# Share of the memory limit that DuckDB's own accounting leaves out, such as a scalar function's text.
_UNCOUNTED = 0.15
# Read by libraries at run time: time zones, certificates and host names for object stores, cores and memory.
_SYSTEM = [Path(folder) for folder in ("/usr", "/lib", "/lib64", "/etc", "/proc", "/sys")]


def main() -> None:
    """Open the warehouse as the first message says, then answer statements until the parent is gone."""
    parent = Connection(int(sys.argv[1]))
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            views = _prepare()
            setup = parent.recv()
            connection = _open(setup, views)
    except EOFError:
        return
    except WarehouseError as error:
        _send(parent, error=type(error).__name__, message=str(error))
        return
    _send(parent, warnings=[str(each.message) for each in caught])
    while True:
        try:
            request = parent.recv()
        except EOFError:
            return
        _answer(parent, connection, request, setup.gibibytes)


def _prepare() -> Path:
    """Import what statements need, which takes longer than opening a warehouse; return the file of the views."""
    from prunescope.warehouse.catalogue import safe_sql  # noqa: F401
    from prunescope.warehouse.catalogue.database import views_file
    from prunescope.warehouse.core import formats  # noqa: F401

    return views_file()


def _open(setup: Setup, views: Path) -> "duckdb.DuckDBPyConnection":
    """Open a locked connection in a process that can read the warehouse and nothing else."""
    from prunescope.warehouse.catalogue.database import SQL, connect
    from prunescope.warehouse.catalogue.scope import narrow
    from prunescope.warehouse.storage.location import place_of

    root = place_of(setup.root)
    if isinstance(root, Path):
        confinement.forbid_network()
        # Modules may still be imported.
        code = [Path(__file__).parents[1], PACKAGE, *map(Path, filter(None, sys.path))]
        python = [Path(sys.prefix), Path(sys.base_prefix)]
        confinement.forbid_files([*_SYSTEM, *python, *code, SQL, views.parent, root.resolve()])
    connection = connect(root, safe=True, gibibytes=setup.gibibytes, models=setup.models)
    if setup.scope is not None:
        narrow(connection, *setup.scope)
    # DuckDB's threads have their memory before the limit counts.
    connection.execute("SELECT count(*) FROM range(1000000) WHERE range % 7 = 3").fetchall()
    confinement.limit_memory(setup.gibibytes * (1 + _UNCOUNTED))
    return connection


def _answer(
    parent: Connection, connection: "duckdb.DuckDBPyConnection", request: dict[str, Any], gibibytes: float
) -> None:
    """Send the rows as bytes of the requested format, an empty message, and how the statement ended."""
    confinement.limit_time(request["seconds"] * (1 + GRACE_SHARE) + GRACE_SECONDS)
    try:
        ending: dict[str, Any] = {"rows": _write(parent, connection, request)}
    except MemoryError:
        ending = {"error": SqlSizeError.__name__, "message": TOO_LARGE}
    except WarehouseError as error:
        ending = {"error": type(error).__name__, "message": str(error)}
    except RecursionError:  # such as of DuckDB's types
        ending = {"error": SqlError.__name__, "message": "SQL: it is nested too deep"}
    except Exception as error:
        ending = {"error": type(error).__name__, "message": f"{type(error).__name__} in the process for SQL: {error}"}
    confinement.unlimited_time()
    parent.send_bytes(b"")
    # An allocator may keep address space that the next statement needs.
    _send(parent, **ending, is_full=confinement.memory_left() < gibibytes / 2)


def _write(parent: Connection, connection: "duckdb.DuckDBPyConnection", request: dict[str, Any]) -> int:
    """Send the rows as they come; return their number."""
    import pyarrow as pa

    from prunescope.warehouse.catalogue.safe_sql import answer
    from prunescope.warehouse.core import formats

    limits = {name: request[name] for name in ("seconds", "rows", "size")}
    batches = answer(connection, request["sql"], request["parameters"], **limits)
    first = next(batches)
    rows = chain([first], batches)
    sink = _Messages(parent, request["size"])
    if request["to"] is not None:
        width, lines = request["screen"]
        return formats.write(first.schema, rows, request["to"], cast("BinaryIO", sink), width=width, lines=lines)
    count = 0
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), first.schema) as writer:
        for batch in rows:
            writer.write_batch(batch)
            count += batch.num_rows
    return count


class _Messages:
    """Binary file whose writes become messages to the parent, up to a size."""

    closed = False

    def __init__(self, parent: Connection, size: int) -> None:
        self._parent, self._size, self._written = parent, size, 0

    def write(self, data: bytes) -> int:
        self._written += len(data)
        if self._written > self._size:
            raise SqlSizeError(too_large_result(self._size))
        if data:  # an empty message ends the rows
            self._parent.send_bytes(data)
        return len(data)

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def _send(parent: Connection, **fields: object) -> None:
    parent.send_bytes(json.dumps(fields).encode())


if __name__ == "__main__":
    main()
