"""Tables and views as data frames of polars, Arrow and Hugging Face."""

from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
import pyarrow.dataset

from prunescope.pipelines.core.quoting import quoted
from prunescope.warehouse.catalogue.database import PROVENANCE, connected, view_sql
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.row_hash import without_codes
from prunescope.warehouse.storage.snapshot import Snapshot
from prunescope.warehouse.tables import TABLES

if TYPE_CHECKING:
    import datasets


def names() -> list[str]:
    """Return the names of all tables and views."""
    return [*TABLES, *view_sql(), PROVENANCE]


def scan(name: str, root: Place | str) -> pl.LazyFrame:
    """Implement `prunescope.scan`."""
    paths = _files(name, root)
    if paths is None:
        return pl.LazyFrame(_rows(name, root))
    if not paths:
        return pl.LazyFrame(schema=pl.Schema(pl.DataFrame(TABLES[name].arrow().empty_table()).schema))
    return pl.scan_parquet(paths, glob=False, hive_partitioning=False)


def arrow(name: str, root: Place | str) -> pyarrow.dataset.Dataset:
    """Implement `prunescope.arrow`."""
    paths = _files(name, root)
    if paths is None:
        return pyarrow.dataset.dataset(_rows(name, root))
    # Texts instead of dictionaries, which differ from file to file.
    plain = pa.schema([field.with_type(without_codes(field.type)) for field in TABLES[name].arrow()])
    return pyarrow.dataset.dataset(paths, schema=plain, format="parquet")


def dataset(name: str, root: Place | str) -> "datasets.Dataset":
    """Implement `prunescope.dataset`."""
    import datasets

    rows = _rows(name, root)
    plain = [field.with_type(without_codes(field.type)).remove_metadata() for field in rows.schema]
    return datasets.Dataset(rows.cast(pa.schema(plain)))


def _files(name: str, root: Place | str) -> list[str] | None:
    """Return the files of a table that can be read directly; None if DuckDB has to assemble the rows.

    DuckDB is needed for views, for a warehouse on an object store, and if a file has another version of its table.
    """
    store = Store(root)
    if name not in TABLES or not isinstance(store.root, Path):
        return None
    snapshot = Snapshot(store)
    snapshot.close()
    files = [file for file in snapshot.files if file.partition.table == name]
    is_current = all(file.version == TABLES[name].version for file in files)
    return [str(file.partition.path) for file in files] if is_current else None


def _rows(name: str, root: Place | str) -> pa.Table:
    if name not in names():
        raise WarehouseError(f"there is no table or view {name!r}; `prunescope tables` lists them")
    with connected(root) as connection:
        return connection.sql(f"SELECT * FROM {quoted(name)}").to_arrow_table()  # noqa: S608 - a known name
