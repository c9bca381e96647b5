"""Where a file's numbers came from, kept in its Parquet footer, and the fingerprint that says whether it still holds.

What goes into a fingerprint is the caller's choice; nothing here computes hashes of weights or prompts.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from prunescope.warehouse.core.errors import DamagedFileError, WarehouseError
from prunescope.warehouse.storage.location import Place, failures, is_local, read_from

FOOTER_KEY = b"prunescope"
# What Arrow raises about bytes that are no Parquet file; names of columns may be no text any more.
BROKEN = (pa.ArrowException, UnicodeDecodeError)


@dataclass(frozen=True)
class Provenance:
    """What made one file.

    Attributes:
        fingerprint: `fingerprint(...)` of everything that the rows depend on.
        study: name of the study that ran.
        model: name of the dense model.
        recipe: name of the recipe; None for tables with one file per model.
        inputs: hashes by name (weight_hash, recipe_hash, calibration_hash, prompts_hash, settings_hash).
        code_version: version of the code that computed the rows.
        libraries: version by library.
        seed: the run's seed.
        device: what it ran on.
        dtype: type of the model's weights.
        seconds: time that the computation took.
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

    def to_json(self) -> str:
        """JSON with sorted keys."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, allow_nan=False)

    @property
    def hash(self) -> str:
        """SHA-256 of `to_json`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> "Provenance":
        """The inverse of `to_json`; keys that are not fields are passed over.

        Raises:
            ValueError: the text is not such a JSON object.
        """
        values = _object(text)
        names = [field.name for field in dataclasses.fields(cls)]
        if missing := [name for name in names if name not in values]:
            raise ValueError(f"provenance lacks {', '.join(missing)}")
        return cls(**{name: values[name] for name in names})


@dataclass(frozen=True)
class Footer:
    """What the store keeps in a Parquet footer beside the schema.

    Attributes:
        provenance: what made the file.
        violations: sentences about the rows that broke their table's checks; empty where all is well.
        schema: the file's Arrow schema.
        rows: number of rows.
        bytes: size of the file.
        content_hash: `hashing.rows_hash` of its rows; None in files that were written before there was one.
        provenance_hash: SHA-256 of the provenance as JSON with sorted keys; None as above.
    """

    provenance: Provenance
    violations: tuple[str, ...]
    schema: pa.Schema
    rows: int
    bytes: int
    content_hash: str | None
    provenance_hash: str | None


def fingerprint(inputs: Mapping[str, object]) -> str:
    """SHA-256 over the inputs as canonical JSON: equal inputs in any order give the same fingerprint.

    Raises:
        TypeError: a value is not plain JSON data.
        ValueError: a number is not finite.
    """
    canonical = json.dumps(dict(inputs), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _facts(file: BinaryIO) -> tuple[pa.Schema, int, int]:
    with pq.ParquetFile(file) as parquet:
        return parquet.schema_arrow, parquet.metadata.num_rows, file.seek(0, os.SEEK_END)


def _object(text: str | bytes) -> dict[str, Any]:
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("provenance is not a JSON object")  # noqa: TRY004 - the text is wrong, not its type
    return values


def footer_json(provenance: Provenance, violations: tuple[str, ...], content_hash: str | None = None) -> bytes:
    """What is stored under the footer key; without a hash of the rows as files of the first version have it."""
    hashes = {"content_hash": content_hash, "provenance_hash": provenance.hash} if content_hash else {}
    kept = {"violations": violations, **hashes}
    return json.dumps(json.loads(provenance.to_json()) | kept, sort_keys=True).encode()


def damaged(path: Place, reason: object) -> DamagedFileError:
    """The error about a file that cannot be trusted, with what to do."""
    first_line = str(reason).partition("\n")[0]
    return DamagedFileError(f"{path} is damaged ({first_line}); delete it and run its study again")


def unreadable(path: Place, error: Exception) -> WarehouseError:
    """The error about a file that could not be read; a bare OSError without errno is Arrow's word for damage."""
    if type(error) is OSError and error.errno is None:
        return damaged(path, error)
    reason = getattr(error, "strerror", None) or error
    where = "permissions and the disk" if is_local(path) else "bucket, and the store's address and credentials"
    return WarehouseError(f"{path} cannot be read ({reason}); check its {where}")


def read_footer(path: Place) -> Footer:
    """The footer of one partition, without reading any row.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it is truncated, no Parquet, or without provenance.
        WarehouseError: the system refuses to read it.
    """
    try:
        schema, rows, size = read_from(path, _facts)
    except FileNotFoundError:
        raise
    except BROKEN as error:
        raise damaged(path, error) from error
    except failures() as error:
        raise unreadable(path, error) from error
    stored = (schema.metadata or {}).get(FOOTER_KEY)
    if stored is None:
        raise damaged(path, "its footer has no provenance")
    try:
        kept = _object(stored)
        violations = tuple(kept.get("violations", []))
        hashes = kept.get("content_hash"), kept.get("provenance_hash")
        return Footer(Provenance.from_json(stored.decode()), violations, schema, rows, size, *hashes)
    except ValueError as error:
        raise damaged(path, error) from error
