"""How results are kept: table schemas, atomic Parquet store, DuckDB catalogue, export.

No torch, no transformers, no Dagster here; `warehouse.open()` is the way in from Python.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

    from warehouse.places import Place


def open(root: "Place | str") -> "duckdb.DuckDBPyConnection":  # noqa: A001 - read as `warehouse.open`
    """Opens the warehouse for questions: every table, staging view, mart and question is a view.

    Args:
        root: folder or URL of the warehouse.

    Returns:
        A DuckDB connection in memory; it sees the files that exist now and writes nothing.

    Raises:
        DamagedFileError: a file is damaged; the message names it.
    """
    # Imported here, because every module of the package runs this file and most need no SQL.
    from warehouse.catalogue import connect

    return connect(root)
