"""The Parquet store: one file per partition, written atomically, with its provenance in the footer.

A partition's path follows from its names alone.
"""

import hashlib
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from prunescope.warehouse.core.errors import DamagedFileError, DamagedFileWarning, WarehouseError
from prunescope.warehouse.schema.migrations import upgraded
from prunescope.warehouse.schema.table import Table
from prunescope.warehouse.storage.atomic_write import temporaries, translate_os_errors, write_atomically
from prunescope.warehouse.storage.file_checksum import ALTERED, UNSEALED, is_intact, seal
from prunescope.warehouse.storage.location import Place, failures, place_of, read_from
from prunescope.warehouse.storage.path_names import original, partition_folders
from prunescope.warehouse.storage.provenance import (
    FOOTER_KEY,
    Footer,
    Provenance,
    damaged,
    footer_json,
    footer_of,
    read_footer,
    reading_explained,
    unreadable,
)

# Packages that only writing needs are imported there: most commands only read.
if TYPE_CHECKING:
    import polars as pl
    from upath import UPath

    from prunescope.warehouse.quality import checks

PART = "part.parquet"
# Eleven layouts were measured on 5.2 million generated layer records of 96 bytes, and on the demo's 162,000. With LZ4
# and split floats, a record takes 0.35 µs to write and 102 or 80 bytes, and DuckDB reads a value in 4.5 ns. Zstandard
# takes 6 % fewer bytes, but 0.48 µs and 6.0 ns. LZ4 with plain floats takes 3.1 ns, but 8 % more bytes.
# Rows keep the engine's order (layer, sublayer, lens, scope, prompt, position). Labels then come in runs and cost under
# 0.1 byte each, and row groups can be skipped by layer. One file per partition needs no compaction.
# DuckDB reads one row group per thread; this is its own default size.
_ROW_GROUP = 122_880


@dataclass(frozen=True)
class Partition:
    """One file of a table.

    `model` and `recipe` are names. They are empty if only the footer has them and is damaged; `recipe` is None in
    tables with one file per model.
    """

    table: str
    model: str
    recipe: str | None
    path: Place


@dataclass(frozen=True)
class PartitionFile:
    """A written partition; if rows violate checks of their table, it never counts as current."""

    path: Place
    rows: int
    bytes: int
    violations: "tuple[checks.Violation, ...]"


class Store:
    """A warehouse in a local folder or on an object store.

    Attributes:
        root: a pathlib.Path for a folder of this machine, a UPath for a URL such as `s3://bucket/prefix`.
    """

    def __init__(self, root: "Path | UPath | str") -> None:
        """Take the location, which need not exist and is not contacted.

        Raises:
            WarehouseError: a warehouse cannot be there.
        """
        self.root = place_of(root)

    @property
    def url(self) -> str | None:
        """URL of the warehouse, the same on every machine; None for a folder."""
        return None if isinstance(self.root, Path) else str(self.root)

    def require(self) -> None:
        """Check that the bucket of an object store can be reached; do nothing for a local folder.

        Raises:
            WarehouseError: the bucket cannot be reached, or does not exist.
        """
        if isinstance(self.root, Path) or self.root.protocol == "memory":
            return
        bucket = self.root.path.strip("/").partition("/")[0]
        try:
            exists = self.root.fs.exists(bucket)
        except failures() as error:
            raise unreadable(self.root, error) from error
        if not exists:
            raise WarehouseError(
                f"the warehouse {self.root}: there is no bucket {bucket!r}; create it, or correct --warehouse"
            )

    def local(self, cache: Path) -> Path:
        """Return a local folder of the warehouse: the warehouse itself, or a folder in the cache for a URL."""
        if isinstance(self.root, Path):
            return self.root
        # Only plain characters, because SQLite reads the names of its databases in this folder as URLs.
        url = str(self.root)
        readable = re.sub(r"[^A-Za-z0-9]+", "-", url)[:60].strip("-")
        return cache / "warehouses" / f"{readable}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"

    def local_file(self, relative: str, cache: Path) -> Path:
        """Return a file of the warehouse as a local file, for memory mapping; the file of a URL is downloaded.

        Raises:
            WarehouseError: the file cannot be downloaded.
        """
        file = self.root / relative
        if isinstance(file, Path):
            return file

        def download(temporary: Path) -> None:
            try:
                file.fs.get_file(file.path, str(temporary))
            except failures() as error:
                raise unreadable(file, error) from error

        copy = self.local(cache) / relative
        write_atomically(copy, download)
        return copy

    def path(self, table: Table, model: str, recipe: str | None) -> Place:
        """Return the path of a partition, whether or not it exists.

        Raises:
            WarehouseError: a name is empty, or a recipe is missing, or given for a table without recipes.
        """
        if (recipe is not None) != (table.partitioning == "variant"):
            rule = "is stored per variant: give a recipe" if recipe is None else "is stored per model: give no recipe"
            raise WarehouseError(f"table {table.name} {rule}")
        return self.root.joinpath(table.name, *partition_folders(model, recipe), PART)

    def write(
        self, table: Table, rows: "pl.DataFrame", provenance: Provenance, model: str, recipe: str | None
    ) -> PartitionFile:
        """Check the rows and replace the partition by them.

        The rows have exactly the table's columns, in any order. The order of the rows is kept. `recipe` is None for
        tables with one file per model.

        Raises:
            WarehouseError: the rows do not fit the table or the partition, or cannot be written. The partition is
                unchanged.
        """
        from prunescope.warehouse.quality import checks
        from prunescope.warehouse.storage.row_hash import rows_hash

        path = self.path(table, model, recipe)
        if (provenance.model, provenance.recipe) != (model, recipe):
            raise WarehouseError(
                f"table {table.name}: provenance names {provenance.model}@{provenance.recipe}, "
                f"the partition is {model}@{recipe}"
            )
        arrow = to_arrow(table, rows)
        # A table with one file per model may name recipes in its rows.
        names = {"model": model} if recipe is None else {"model": model, "recipe": recipe}
        for name, expected in names.items():
            if name in arrow.column_names and (others := set(arrow[name].unique().to_pylist()) - {expected}):
                raise WarehouseError(f"table {table.name}: column {name} holds {min(others)!r}, not only {expected!r}")
        violations = tuple(checks.violations(table, arrow))
        footer = footer_json(provenance, tuple(str(violation) for violation in violations), rows_hash(arrow))
        arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), FOOTER_KEY: footer, **UNSEALED})

        def fill(temporary: Path) -> None:
            _write_parquet(arrow, temporary)
            seal(temporary)

        write_atomically(path, fill)
        return PartitionFile(path, arrow.num_rows, path.stat().st_size, violations)

    def read(self, table: Table, model: str, recipe: str | None) -> pa.Table:
        """Read all rows of one partition with the table's present columns, and verify its seal.

        Columns that a file of an earlier version lacks are NULL.

        Raises:
            DamagedFileError: the file is truncated or altered, or belongs to another partition.
            WarehouseError: the partition does not exist, or cannot be read.
        """
        path = self.path(table, model, recipe)

        def rows(file: BinaryIO) -> pa.Table:
            if is_intact(file) is False:
                raise damaged(path, ALTERED)
            footer_of(file, path)
            with pq.ParquetFile(file) as parquet:
                return parquet.read()

        try:
            with reading_explained(path):
                return upgraded(table, read_from(path, rows))
        except FileNotFoundError as error:
            raise WarehouseError(
                f"table {table.name} has nothing for {_name(model, recipe)}; run its study first"
            ) from error

    def provenance(self, table: Table, model: str, recipe: str | None) -> Provenance | None:
        """Return the provenance of a partition; None if it does not exist.

        Raises:
            DamagedFileError: the file's footer cannot be read.
        """
        try:
            return read_footer(self.path(table, model, recipe)).provenance
        except FileNotFoundError:
            return None

    def is_current(self, table: Table, model: str, recipe: str | None, fingerprint: str) -> bool:
        """Return whether the partition has the table's columns, no violations and this fingerprint."""
        try:
            footer = read_footer(self.path(table, model, recipe))
        except (FileNotFoundError, DamagedFileError):
            return False
        is_same = footer.provenance.fingerprint == fingerprint
        return is_same and not footer.violations and footer.version == table.version

    def partitions(self, table: Table) -> list[Partition]:
        """Return everything at the paths of partitions, in the order of the paths, even damaged files and folders.

        Only files with shortened names are opened; `footers` and `read` check the contents.
        """
        depth = 2 if table.partitioning == "model" else 3
        folder = self.root / table.name
        if isinstance(folder, Path):
            return [_partition(table, path) for path in sorted(folder.glob(f"{'*/' * (depth - 1)}{PART}"))]
        length = len(folder.parts) + depth
        paths = [path for path in self.files(table.name) if len(path.parts) == length and path.name == PART]
        return [_partition(table, path) for path in paths]

    def footers(self, table: Table) -> Iterator[tuple[Partition, Footer]]:
        """Yield the table's partitions with their footers; leave out those that cannot be used, with a warning."""
        for partition in self.partitions(table):
            try:
                yield partition, read_footer(partition.path)
            except FileNotFoundError:  # removed after it was listed
                continue
            except WarehouseError as error:
                warnings.warn(str(error), DamagedFileWarning, stacklevel=2)

    def files(self, folder: str) -> list[Place]:
        """Return all files below a folder of the warehouse in the order of their paths, temporary ones included.

        Raises:
            WarehouseError: the folder cannot be listed.
        """
        top = self.root / folder
        if isinstance(top, Path):
            return [path for path in sorted(top.rglob("*")) if path.is_file()]  # a missing folder has none
        try:
            # Not with a pattern, because the bucket's prefix may contain wildcard characters.
            names = sorted(top.fs.find(top.path))
        except failures() as error:
            raise unreadable(top, error) from error
        return [top / name[len(top.path) :].lstrip("/") for name in names]

    def write_bytes(self, relative: str, writer: Callable[[Path], object]) -> Place:
        """Write a file that is not a table (a variant, a report), as atomically as a partition.

        `relative` is the path below the root; its first folder starts with `_`, unlike those of tables. `writer` writes
        a temporary file at the path that it gets.

        Returns:
            The file.

        Raises:
            WarehouseError: the path leaves the root or is among the tables, or the file cannot be written.
        """
        parts = PurePosixPath(relative).parts
        if "\0" in relative or ".." in parts or len(parts) < 2 or not parts[0].startswith("_"):
            raise WarehouseError(f"{relative!r} is not a place for a file outside the tables; use _folder/name")
        path = self.root.joinpath(*parts)
        write_atomically(path, writer)
        return path

    def clean_temporaries(self) -> list[Path]:
        """Remove the temporary files of killed writers and return their paths."""
        removed = []
        for path in temporaries(self.root):
            with translate_os_errors(path):
                path.unlink(missing_ok=True)
            removed.append(path)
        return removed


def to_arrow(table: Table, rows: "pl.DataFrame") -> pa.Table:
    """Convert rows to the table's Arrow schema.

    Raises:
        WarehouseError: columns are missing or unexpected, a value does not fit its type, or a NULL is not allowed.
    """
    schema = table.arrow()
    expected, found = set(schema.names), set(rows.columns)
    if expected != found:
        parts = {"lacks": sorted(expected - found), "has unexpected": sorted(found - expected)}
        told = " and ".join(f"{verb} {', '.join(names)}" for verb, names in parts.items() if names)
        raise WarehouseError(f"table {table.name}: the frame {told}")
    # With one chunk per column the pages do not depend on how the frame was built.
    whole = rows.rechunk()
    columns = []
    for field in schema:
        try:
            column = _converted(whole[field.name], field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            reason = str(error).partition("\n")[0]
            raise WarehouseError(
                f"table {table.name}: column {field.name} does not fit {field.type}: {reason}"
            ) from error
        if column.null_count and not field.nullable:
            raise WarehouseError(
                f"table {table.name}: column {field.name} has {column.null_count} NULLs, and NULL is not allowed"
            )
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)


def _converted(values: "pl.Series", to: pa.DataType) -> pa.Array:
    import numpy as np
    import polars as pl

    if not pa.types.is_dictionary(to):
        return values.to_arrow().cast(to)
    if values.dtype not in {pl.String, pl.Categorical, pl.Enum}:
        return values.to_arrow().cast(to.value_type).dictionary_encode().cast(to)
    # Labels come in long runs, so only the first of each run is encoded. Codes follow the order of appearance, not the
    # frame's own dictionary.
    runs = values.cast(pl.String).rle().struct
    codes = runs.field("value").to_arrow().cast(to.value_type).dictionary_encode().cast(to)
    return codes.take(pa.array(np.repeat(np.arange(len(codes)), runs.field("len"))))


def _write_parquet(rows: pa.Table, path: Path) -> None:
    # Floats seldom repeat and get an encoding of their own; other values repeat and get a dictionary.
    floats = {leaf: encoding for field in rows.schema for leaf, encoding in _float_encoding(field).items()}
    others = [field.name for field in rows.schema if not _float_encoding(field)]
    with path.open("xb") as file:
        pq.write_table(
            rows,
            file,
            row_group_size=_ROW_GROUP,
            compression="lz4",
            use_dictionary=others,
            column_encoding=floats,
            write_page_checksum=True,
        )


def _float_encoding(field: pa.Field) -> dict[str, str]:
    """Return the encoding of a column of floats, by the name of its leaf; nothing for other columns."""
    leaf, of = field.name, field.type
    if pa.types.is_list(of):
        leaf, of = f"{leaf}.list.element", of.value_type
    if pa.types.is_float32(of):
        return {leaf: "BYTE_STREAM_SPLIT"}
    # DuckDB supports BYTE_STREAM_SPLIT for numbers of 4 and 8 bytes only.
    return {leaf: "PLAIN"} if pa.types.is_float16(of) else {}


def _name(model: str, recipe: str | None) -> str:
    return model if recipe is None else f"{model}@{recipe}"


def _partition(table: Table, path: Place) -> Partition:
    folders = [path.parent.name] if table.partitioning == "model" else [path.parent.parent.name, path.parent.name]
    names = [original(folder.partition("=")[2]) for folder in folders]
    if None in names:
        try:
            provenance = read_footer(path).provenance
            names = [provenance.model, provenance.recipe][: len(folders)]
        except WarehouseError:  # reading the partition reports it
            pass
    model, *recipe = [name or "" for name in names]
    return Partition(table.name, model, recipe[0] if recipe else None, path)
