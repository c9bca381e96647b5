"""The Parquet store: one file per partition, written whole or not at all, with its provenance in the footer.

No SQL here and no knowledge of what is computed; a partition's place follows from its names alone.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from prunescope.warehouse.core.errors import DamagedFileError, WarehouseError
from prunescope.warehouse.schema.migrations import upgraded, version_of
from prunescope.warehouse.schema.table import Table
from prunescope.warehouse.storage.atomic_write import temporaries, translate_os_errors, write_atomically
from prunescope.warehouse.storage.file_checksum import UNSEALED, is_intact, seal
from prunescope.warehouse.storage.location import Place, failures, fetch, place_of, read_from
from prunescope.warehouse.storage.path_names import original, path_safe
from prunescope.warehouse.storage.provenance import (
    BROKEN,
    FOOTER_KEY,
    Provenance,
    damaged,
    footer_json,
    read_footer,
    unreadable,
)

# What only writing needs is imported there: most commands only read.
if TYPE_CHECKING:
    import polars as pl
    from upath import UPath

    from prunescope.warehouse.quality import checks

PART = "part.parquet"
# Layout by measurement: 5.2 million generated layer records (96 bytes a record) and the demo's 162,000; one core.
#                                        write    bytes a record    read by DuckDB
#   floats, compression, row group    µs a record generated demo   ns a value
#   split,  zstd 1,   122,880            0.48        95.8   73.4      6.0
#   split,  zstd 3,   122,880            0.60        95.1   72.9      5.9
#   split,  lz4,      122,880            0.35       101.8   79.6      4.5    <- chosen
#   split,  snappy,   122,880            0.34       108.7   84.5      5.0
#   plain,  zstd 1,   122,880            0.44        98.8   76.0      5.0
#   plain,  lz4,      122,880            0.29       110.7   84.3      3.1
#   split,  none,     122,880            0.29       158.4  160.7      4.1
#   dictionary, zstd 1                   1.52       147.3  117.4      7.7
#   split,  zstd 1,    30,720            0.53        96.5   73.4      6.1
#   split,  zstd 1, 1,000,000            0.46        95.3   73.4      5.5
# The engine's order (layer, sublayer, lens, scope, prompt, position) is kept: labels then come in runs and cost under
# 0.1 byte each, and row groups can be passed over by layer. One file a partition needs no compaction.
# DuckDB reads one row group per thread; this is its own default size.
_ROW_GROUP = 122_880


@dataclass(frozen=True)
class Partition:
    """One file of a table.

    Attributes:
        table: name of the table.
        model: name of the model; empty where a damaged footer alone could tell it.
        recipe: name of the recipe, or empty as the model's; None in tables with one file per model.
        path: the file.
    """

    table: str
    model: str
    recipe: str | None
    path: Place


@dataclass(frozen=True)
class PartitionFile:
    """What a write did.

    Attributes:
        path: the file.
        rows: rows in it.
        bytes: its size.
        violations: checks of the table that its rows break; such a partition never counts as current.
    """

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
        """Takes the place, which need not exist yet and is not contacted.

        Raises:
            WarehouseError: it is no place for a warehouse.
        """
        self.root = place_of(root)

    @property
    def url(self) -> str | None:
        """The warehouse as every machine names it; None for a folder."""
        return None if isinstance(self.root, Path) else str(self.root)

    def require(self) -> None:
        """Asks an object store whether the warehouse can be reached; a local folder needs no asking.

        Raises:
            WarehouseError: it cannot, or there is no such bucket.
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
                f"the warehouse {self.root}: there is no bucket {bucket!r}; make it, or mend --warehouse"
            )

    def local(self, cache: Path) -> Path:
        """The folder of this machine for what needs one: the warehouse itself, or a part of the cache for a URL."""
        if isinstance(self.root, Path):
            return self.root
        # Plain characters only: the names of SQLite's databases, which lie there too, are read as URLs.
        url = str(self.root)
        readable = re.sub(r"[^A-Za-z0-9]+", "-", url)[:60].strip("-")
        return cache / "warehouses" / f"{readable}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"

    def local_file(self, relative: str, cache: Path) -> Path:
        """A file of the warehouse as one of this machine, as memory mapping needs it; that of a URL is fetched whole.

        Raises:
            WarehouseError: it cannot be fetched.
        """
        file = self.root / relative
        if isinstance(file, Path):
            return file

        def download(temporary: Path) -> None:
            try:
                fetch(file, temporary)
            except failures() as error:
                raise unreadable(file, error) from error

        copy = self.local(cache) / relative
        write_atomically(copy, download)
        return copy

    def path(self, table: Table, model: str, recipe: str | None) -> Place:
        """Where the partition lies, whether or not it exists.

        Raises:
            WarehouseError: a name is empty, or there is a recipe too many or too few for this table.
        """
        if (recipe is not None) != (table.partitioning == "variant"):
            rule = "is kept per variant: give a recipe" if recipe is None else "is kept per model: give no recipe"
            raise WarehouseError(f"table {table.name} {rule}")
        folder = self.root / table.name / f"model={path_safe(model)}"
        return (folder if recipe is None else folder / f"recipe={path_safe(recipe)}") / PART

    def write(
        self, table: Table, rows: "pl.DataFrame", provenance: Provenance, model: str, recipe: str | None
    ) -> PartitionFile:
        """Checks the rows and puts them in the place of the partition.

        Args:
            table: the table.
            rows: exactly its columns, in any order of columns; the order of rows is kept.
            provenance: goes into the footer.
            model: the partition's model.
            recipe: the partition's recipe; None for tables with one file per model.

        Raises:
            WarehouseError: the rows do not fit the table or the partition, or the system refused to write. The
                partition is as it was.
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
        for name, wanted in (("model", model), ("recipe", recipe)):
            if name in arrow.column_names and (others := set(arrow[name].unique().to_pylist()) - {wanted}):
                raise WarehouseError(f"table {table.name}: column {name} holds {min(others)!r}, not only {wanted!r}")
        self._refuse_another(table, path, model, recipe)
        violations = tuple(checks.violations(table, arrow))
        said = footer_json(provenance, tuple(str(violation) for violation in violations), rows_hash(arrow))
        arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), FOOTER_KEY: said, **UNSEALED})

        def fill(temporary: Path) -> None:
            _write_parquet(arrow, temporary)
            seal(temporary)

        write_atomically(path, fill)
        return PartitionFile(path, arrow.num_rows, path.stat().st_size, violations)

    def _refuse_another(self, table: Table, path: Place, model: str, recipe: str | None) -> None:
        """On a disk that does not tell upper from lower case two names can have one place, which is the first one's."""
        try:
            found = read_footer(path).provenance
        except (FileNotFoundError, WarehouseError):  # whatever is wrong with the place, writing says it
            return
        if (found.model, found.recipe) != (model, recipe):
            holds = found.model if found.recipe is None else f"{found.model}@{found.recipe}"
            raise WarehouseError(
                f"table {table.name}: {path} holds {holds}, and this disk keeps its name and that of "
                f"{model if recipe is None else f'{model}@{recipe}'} for the same; choose another name"
            )

    def read(self, table: Table, model: str, recipe: str | None) -> pa.Table:
        """All rows of one partition, sealed bytes and page checksums compared, with the table's present columns.

        What a file of an earlier version lacks is NULL.

        Raises:
            DamagedFileError: the file is truncated or altered.
            WarehouseError: there is no such partition, or the system refuses to read it.
        """
        path = self.path(table, model, recipe)
        try:
            return upgraded(table, read_from(path, _rows))
        except FileNotFoundError as error:
            variant = model if recipe is None else f"{model}@{recipe}"
            raise WarehouseError(f"table {table.name} has nothing for {variant}; run its study first") from error
        except BROKEN as error:
            raise damaged(path, error) from error
        except failures() as error:
            raise unreadable(path, error) from error

    def provenance(self, table: Table, model: str, recipe: str | None) -> Provenance | None:
        """What made the partition; None where there is none.

        Raises:
            DamagedFileError: the file's footer cannot be read.
        """
        try:
            return read_footer(self.path(table, model, recipe)).provenance
        except FileNotFoundError:
            return None

    def is_current(self, table: Table, model: str, recipe: str | None, fingerprint: str) -> bool:
        """Whether the partition has the table's columns, keeps its checks and was made from these inputs."""
        try:
            footer = read_footer(self.path(table, model, recipe))
        except (FileNotFoundError, DamagedFileError):
            return False
        is_same = footer.provenance.fingerprint == fingerprint
        return is_same and not footer.violations and fits(table, footer.schema)

    def partitions(self, table: Table) -> list[Partition]:
        """The partitions that exist, in the order of their paths; their files are opened only for shortened names."""
        depth = 2 if table.partitioning == "model" else 3
        folder = self.root / table.name
        if isinstance(folder, Path):
            return [_partition(table, path) for path in sorted(folder.glob(f"{'*/' * (depth - 1)}{PART}"))]
        above = len(folder.parts)
        found = [path for path in self.files(table.name) if len(path.parts) == above + depth]
        return [_partition(table, path) for path in found if path.name == PART]

    def files(self, folder: str) -> list[Place]:
        """All files below a folder of the warehouse, in the order of their paths; temporaries are among them.

        Raises:
            WarehouseError: it cannot be listed.
        """
        place = self.root / folder
        if isinstance(place, Path):
            return [path for path in sorted(place.rglob("*")) if path.is_file()]  # a missing folder has none
        try:
            # Not by a pattern: the bucket's prefix may hold its characters.
            names = sorted(place.fs.find(place.path))
        except failures() as error:
            raise unreadable(place, error) from error
        return [place / name[len(place.path) :].lstrip("/") for name in names]

    def write_bytes(self, relative: str, writer: Callable[[Path], object]) -> Place:
        """Writes a file that is no table (a variant, a report), as atomically as a partition.

        Args:
            relative: place below the root; its first folder starts with `_`, as no table does.
            writer: fills the temporary file that it is given.

        Returns:
            The file.

        Raises:
            WarehouseError: the place leaves the root or lies among the tables, or the system refused to write.
        """
        place = PurePosixPath(relative)
        if (
            "\0" in relative
            or place.is_absolute()
            or ".." in place.parts
            or len(place.parts) < 2
            or not place.parts[0].startswith("_")
        ):
            raise WarehouseError(f"{relative!r} is no place for a file beside the tables; use _folder/name")
        path = self.root.joinpath(*place.parts)
        write_atomically(path, writer)
        return path

    def clean_temporaries(self) -> list[Path]:
        """Removes what killed writers left behind and says which files it was."""
        removed = []
        for path in temporaries(self.root):
            with translate_os_errors(path):
                path.unlink(missing_ok=True)
            removed.append(path)
        return removed


def fits(table: Table, schema: pa.Schema) -> bool:
    """Whether a file has the table's present columns with their types."""
    return version_of(table, schema) == table.version


def to_arrow(table: Table, rows: "pl.DataFrame") -> pa.Table:
    """The rows in the table's Arrow schema.

    Raises:
        WarehouseError: columns are missing or unexpected, a value does not fit its type, or a NULL has no meaning.
    """
    schema = table.arrow()
    missing = [name for name in schema.names if name not in rows.columns]
    unexpected = [name for name in rows.columns if name not in schema.names]
    if missing or unexpected:
        problems = [
            f"{word} {', '.join(names)}"
            for word, names in (("lacks", missing), ("has unexpected", unexpected))
            if names
        ]
        raise WarehouseError(f"table {table.name}: the frame {' and '.join(problems)}")
    # One chunk a column, so that the pages do not depend on how the frame was put together.
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
                f"table {table.name}: column {field.name} has {column.null_count} NULLs and may have none"
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
    # Labels come in long runs, and only the first of each is encoded. Codes are in order of appearance, not in the
    # order of whichever cache the frame came with.
    runs = values.cast(pl.String).rle().struct
    codes = runs.field("value").to_arrow().cast(to.value_type).dictionary_encode().cast(to)
    return codes.take(pa.array(np.repeat(np.arange(len(codes)), runs.field("len"))))


def _rows(file: BinaryIO) -> pa.Table:
    if is_intact(file) is False:
        raise pa.ArrowInvalid("a byte is not as it was written")
    with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
        return parquet.read()


def _write_parquet(rows: pa.Table, path: Path) -> None:
    # Float noise never repeats and gets an encoding of its own; all else repeats and gets a dictionary.
    noise = {leaf: encoding for field in rows.schema for leaf, encoding in _noise(field).items()}
    others = [field.name for field in rows.schema if not _noise(field)]
    with path.open("xb") as file:
        pq.write_table(
            rows,
            file,
            row_group_size=_ROW_GROUP,
            compression="lz4",
            use_dictionary=others,
            column_encoding=noise,
            write_page_checksum=True,
        )


def _noise(field: pa.Field) -> dict[str, str]:
    """The encoding of a column of floats by the name of its leaf; empty for all else."""
    leaf, of = field.name, field.type
    if pa.types.is_list(of):
        leaf, of = f"{leaf}.list.element", of.value_type
    if pa.types.is_float32(of):
        return {leaf: "BYTE_STREAM_SPLIT"}
    # DuckDB reads bytes split by significance of 4- and 8-byte numbers only.
    return {leaf: "PLAIN"} if pa.types.is_float16(of) else {}


def _partition(table: Table, path: Place) -> Partition:
    folders = [path.parent.name] if table.partitioning == "model" else [path.parent.parent.name, path.parent.name]
    names = [original(folder.partition("=")[2]) for folder in folders]
    if None in names:
        try:
            provenance = read_footer(path).provenance
            names = [provenance.model, provenance.recipe][: len(folders)]
        except WarehouseError:  # whoever reads it says so
            pass
    model, *recipe = [name or "" for name in names]
    return Partition(table.name, model, recipe[0] if recipe else None, path)
