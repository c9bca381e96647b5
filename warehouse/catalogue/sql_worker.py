"""Process that runs users' SQL for `sql_process.SqlProcess`: `python -m prunescope.warehouse.catalogue.sql_worker FD`.

Messages to it are pickles, because its parent is trusted; those from it are Arrow's bytes and JSON.
"""

import json
import sys
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunescope.warehouse.catalogue.sql_process import PACKAGE, Setup
from prunescope.warehouse.core import confinement
from prunescope.warehouse.core.errors import TOO_LARGE, SqlSizeError, WarehouseError

if TYPE_CHECKING:
    import duckdb

# Share of the memory limit that DuckDB's own accounting leaves out, such as a scalar function's text.
_UNCOUNTED = 0.15
# An interrupted statement ends in its own words; after this share of its time, and these seconds, the kernel ends it.
_GRACE_SHARE, _GRACE_SECONDS = 0.1, 0.5
# Read by libraries at run time: time zones, certificates and host names for object stores, cores and memory.
_SYSTEM = [Path(folder) for folder in ("/usr", "/lib", "/lib64", "/etc", "/proc", "/sys")]


def main() -> None:
    """Open the warehouse as the first message says, then answer statements until the parent is gone."""
    parent = Connection(int(sys.argv[1]))
    setup: Setup = parent.recv()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            connection = _open(setup)
    except WarehouseError as error:
        _send(parent, error=type(error).__name__, message=str(error))
        return
    _send(parent, warnings=[str(each.message) for each in caught])
    while True:
        try:
            request = parent.recv()
        except EOFError:
            return
        _answer(parent, connection, request)


def _open(setup: Setup) -> "duckdb.DuckDBPyConnection":
    """Open a locked connection in a process that can read the warehouse and nothing else."""
    from prunescope.warehouse.catalogue import safe_sql  # noqa: F401 - imported before the process is confined
    from prunescope.warehouse.catalogue.database import SQL, connect, views_file
    from prunescope.warehouse.catalogue.scope import narrow
    from prunescope.warehouse.storage.location import place_of

    root = place_of(setup.root)
    views = views_file()
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


def _answer(parent: Connection, connection: "duckdb.DuckDBPyConnection", request: dict[str, Any]) -> None:
    """Send the rows as a stream of Arrow's, an empty message, and how the statement ended."""
    import pyarrow as pa

    from prunescope.warehouse.catalogue.safe_sql import answer

    confinement.limit_time(request["seconds"] * (1 + _GRACE_SHARE) + _GRACE_SECONDS)
    ending: dict[str, Any] = {}
    try:
        writer = None
        for batch in answer(connection, **request):
            if writer is None:
                writer = pa.ipc.new_stream(pa.PythonFile(_Messages(parent), mode="w"), batch.schema)
            writer.write_batch(batch)
        if writer is not None:
            writer.close()
    except MemoryError:
        ending = {"error": SqlSizeError.__name__, "message": TOO_LARGE}
    except WarehouseError as error:
        ending = {"error": type(error).__name__, "message": str(error)}
    confinement.unlimited_time()
    parent.send_bytes(b"")
    _send(parent, **ending)


class _Messages:
    """Binary file whose writes become messages to the parent."""

    closed = False

    def __init__(self, parent: Connection) -> None:
        self._parent = parent

    def write(self, data: bytes) -> int:
        if data:  # an empty message ends the rows
            self._parent.send_bytes(data)
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def _send(parent: Connection, **fields: object) -> None:
    parent.send_bytes(json.dumps(fields).encode())


if __name__ == "__main__":
    main()
