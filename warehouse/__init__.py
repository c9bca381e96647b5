"""How results are kept: table schemas, atomic Parquet store, DuckDB catalogue, export.

No torch, no transformers, no Dagster here; `warehouse.open()` is the way in from Python, `scan`, `arrow` and `dataset`
give one table or view.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import datasets
    import duckdb
    import polars as pl
    import pyarrow.dataset

    from warehouse.places import Place

# The modules behind these functions are imported inside them, because every module of the package runs this file and
# most need no SQL.


def open(root: "Place | str | None" = None) -> "duckdb.DuckDBPyConnection":  # noqa: A001 - read as `warehouse.open`
    """Opens the warehouse for questions: every table, staging view, mart and question is a view.

    Args:
        root: folder or URL of the warehouse; None: PRUNESCOPE_WAREHOUSE, else `warehouse/data`.

    Returns:
        A DuckDB connection in memory. It sees the files of the warehouse that exist now. It is yours and not locked: it
        reads your own files to join with, and writes where you say COPY. Run the SQL of somebody else, or of a model,
        by `warehouse.safe_sql.run_safe(root, sql)`, which lets it read the tables and views and nothing else.

    Warns:
        DamagedFileWarning: of each file that cannot be read. A query that reads it fails with its name, all others
            work.

    Raises:
        WarehouseError: there is a file in the place of the folder.
    """
    from warehouse.catalogue import connect

    return connect(_root(root))


def scan(name: str, root: "Place | str | None" = None) -> "pl.LazyFrame":
    """A table or view as a polars LazyFrame.

    A table is scanned where it lies when the frame is collected, and only the rows and columns that it ends up using;
    a view is computed now. Only `open` holds one state of the files while others write.

    Args:
        name: the table or view, as `prunescope tables` lists them.
        root: as in `open`.

    Raises:
        WarehouseError: there is no such table or view, or a file is damaged.
    """
    from warehouse import frames

    return frames.scan(name, _root(root))


def arrow(name: str, root: "Place | str | None" = None) -> "pyarrow.dataset.Dataset":
    """A table or view as an Arrow data set, of which a table is read where it lies.

    Args:
        name: the table or view.
        root: as in `open`.

    Raises:
        WarehouseError: as `scan`.
    """
    from warehouse import frames

    return frames.arrow(name, _root(root))


def dataset(name: str, root: "Place | str | None" = None) -> "datasets.Dataset":
    """A table or view as a Hugging Face data set, in memory.

    Args:
        name: the table or view.
        root: as in `open`.

    Raises:
        WarehouseError: as `scan`.
    """
    from warehouse import frames

    return frames.dataset(name, _root(root))


def _root(root: "Place | str | None") -> "Path | Place | str":
    return root if root is not None else os.environ.get("PRUNESCOPE_WAREHOUSE") or "warehouse/data"
