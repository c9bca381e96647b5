"""Provenance of a file, stored in its Parquet footer, with the fingerprint that shows whether the file is current."""

import dataclasses
import datetime
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from prunescope.warehouse.core.errors import DamagedFileError, WarehouseError
from prunescope.warehouse.schema.migrations import version_of
from prunescope.warehouse.storage.location import Place, failures, read_from
from prunescope.warehouse.storage.path_names import partition_folders
from prunescope.warehouse.tables import TABLES

FOOTER_KEY = b"prunescope"
# How to fix a damaged file, in messages.
REPAIR = "run its study again, or move it away"
# Exceptions that Arrow raises if bytes are not a Parquet file; even names of columns may then not be text.
BROKEN = (pa.ArrowException, UnicodeDecodeError)


@dataclass(frozen=True)
class Provenance:
    """Provenance of one file.

    Attributes:
        fingerprint: `fingerprint(...)` of everything that the rows depend on.
        recipe: None for tables with one file per model.
        inputs: hashes by name (weight_hash, recipe_hash, calibration_hash, prompts_hash, settings_hash).
        libraries: version by library.
        dtype: data type of the model's weights.
        created_at: UTC, ISO 8601.
    """

    fingerprint: str
    study: str
    model: str
    recipe: str | None
    inputs: dict[str, str]
    code_version: str
    libraries: dict[str, str]
    seed: int
    device: str
    dtype: str
    seconds: float
    created_at: str

    @classmethod
    def of_read_rows(
        cls, study: str, model: str, recipe: str | None, inputs: dict[str, str], code_version: str
    ) -> "Provenance":
        """Return the provenance of rows that were just read from files instead of computed."""
        created_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls(fingerprint(inputs), study, model, recipe, inputs, code_version, {}, 0, "", "", 0.0, created_at)


@dataclass(frozen=True)
class Footer:
    """Facts that the store keeps in a Parquet footer.

    Attributes:
        violations: sentences about rows that violate their table's checks.
        version: version of the table whose columns the file has; None if no version has them, or outside of a table.
        content_hash: `row_hash.rows_hash` of the rows; None in files that are older than this hash.
    """

    provenance: Provenance
    violations: tuple[str, ...]
    schema: pa.Schema
    version: int | None
    rows: int
    content_hash: str | None


def fingerprint(inputs: Mapping[str, object]) -> str:
    """Return SHA-256 over the inputs as canonical JSON, which does not depend on their order.

    Raises:
        TypeError: a value is not plain JSON data.
        ValueError: a number is not finite.
    """
    canonical = json.dumps(dict(inputs), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def footer_json(provenance: Provenance, violations: tuple[str, ...], content_hash: str | None = None) -> bytes:
    """Return the JSON under the footer key; without a hash of the rows, it is that of the oldest files."""
    facts = dataclasses.asdict(provenance) | {"violations": violations}
    facts |= {"content_hash": content_hash} if content_hash else {}
    return json.dumps(facts, sort_keys=True, allow_nan=False).encode()


def damaged(path: Place, reason: object) -> DamagedFileError:
    """Return the error about a damaged file, with the fix."""
    first_line = str(reason).partition("\n")[0]
    return DamagedFileError(f"{path} is damaged ({first_line}); {REPAIR}")


def unreadable(path: Place, error: Exception) -> WarehouseError:
    """Return the error about a file that cannot be read; a plain OSError without errno is Arrow's report of damage."""
    if type(error) is OSError and error.errno is None:
        return damaged(path, error)
    reason = getattr(error, "strerror", None) or error
    if isinstance(error, IsADirectoryError):
        return WarehouseError(f"{path} cannot be read ({reason}); move it away")
    where = "permissions and the disk" if isinstance(path, Path) else "bucket, and the store's address and credentials"
    return WarehouseError(f"{path} cannot be read ({reason}); check its {where}")


@contextmanager
def reading_explained(path: Place) -> Iterator[None]:
    """Turn an error of the system, the store or Arrow about a file that is read into one with the fix.

    Raises:
        FileNotFoundError: the file does not exist.
        DamagedFileError: it is damaged.
        WarehouseError: it cannot be read.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except BROKEN as error:
        raise damaged(path, error) from error
    except failures() as error:
        raise unreadable(path, error) from error


def require_place(path: Place, model: str, recipe: str | None) -> None:
    """Check that a partition's file is at the path of the names in its footer.

    Raises:
        DamagedFileError: the file is elsewhere, or no file can have these names.
    """
    try:
        folders = partition_folders(model, recipe)
    except (TypeError, WarehouseError) as error:
        raise damaged(path, error) from error
    if path.parts[-1 - len(folders) : -1] != folders:
        name = model if recipe is None else f"{model}@{recipe}"
        raise damaged(path, f"it holds {name}, which belongs at another path")


def footer_of(file: BinaryIO, path: Place) -> Footer:
    """Read the footer of an open partition, without any row.

    Raises:
        DamagedFileError: the file has no provenance, or belongs at the path of another partition or table.
        OSError: the file cannot be read. Exceptions of `BROKEN` are raised if it is not a Parquet file.
    """
    with pq.ParquetFile(file) as parquet:
        schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
    stored = (schema.metadata or {}).get(FOOTER_KEY)
    if stored is None:
        raise damaged(path, "its footer has no provenance")
    try:
        facts = json.loads(stored)
        provenance = Provenance(**{field.name: facts[field.name] for field in dataclasses.fields(Provenance)})
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path, f"its footer has no whole provenance: {error}") from error
    require_place(path, provenance.model, provenance.recipe)
    table = TABLES.get(path.parts[-2 - len(partition_folders(provenance.model, provenance.recipe))])
    version = version_of(table, schema) if table else None
    others = (other.name for other in TABLES.values() if version_of(other, schema))
    if table and version is None and (name := next(others, None)):
        raise damaged(path, f"it holds rows of {name}, which belong at another path")
    return Footer(provenance, tuple(facts.get("violations", [])), schema, version, rows, facts.get("content_hash"))


def read_footer(path: Place) -> Footer:
    """Read the footer of one partition as `footer_of` does.

    Raises:
        FileNotFoundError: the file does not exist.
        DamagedFileError: the file is truncated, not regular, not Parquet, without provenance, or belongs elsewhere.
        WarehouseError: the file cannot be read.
    """
    with reading_explained(path):
        return read_from(path, lambda file: footer_of(file, path))
