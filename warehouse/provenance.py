"""Where a file's numbers came from, kept in its Parquet footer, and the fingerprint that says whether it still holds.

What goes into a fingerprint is the caller's choice; nothing here computes hashes of weights or prompts.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.errors import DamagedFileError, WarehouseError

FOOTER_KEY = b"prunescope"


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
    """

    provenance: Provenance
    violations: tuple[str, ...]
    schema: pa.Schema
    rows: int


def fingerprint(inputs: Mapping[str, object]) -> str:
    """SHA-256 over the inputs as canonical JSON: equal inputs in any order give the same fingerprint.

    Raises:
        TypeError: a value is not plain JSON data.
        ValueError: a number is not finite.
    """
    canonical = json.dumps(dict(inputs), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _object(text: str | bytes) -> dict[str, Any]:
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("provenance is not a JSON object")  # noqa: TRY004 - the text is wrong, not its type
    return values


def footer_json(provenance: Provenance, violations: tuple[str, ...]) -> bytes:
    """What is stored under the footer key."""
    return json.dumps(json.loads(provenance.to_json()) | {"violations": violations}, sort_keys=True).encode()


def damaged(path: Path, reason: object) -> DamagedFileError:
    """The error about a file that cannot be trusted, with what to do."""
    first_line = str(reason).partition("\n")[0]
    return DamagedFileError(f"{path} is damaged ({first_line}); delete it and run its study again")


def unreadable(path: Path, error: OSError) -> WarehouseError:
    """The error about a file that the system did not let us read; one without errno is Arrow's word for damage."""
    if error.errno is None:
        return damaged(path, error)
    return WarehouseError(f"{path} cannot be read ({error.strerror or error}); check its permissions and the disk")


def read_footer(path: Path) -> Footer:
    """The footer of one partition, without reading any row.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it is truncated, no Parquet, or without provenance.
        WarehouseError: the system refuses to read it.
    """
    try:
        with path.open("rb") as file, pq.ParquetFile(file) as parquet:
            schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
    except FileNotFoundError:
        raise
    except pa.ArrowException as error:
        raise damaged(path, error) from error
    except OSError as error:
        raise unreadable(path, error) from error
    stored = (schema.metadata or {}).get(FOOTER_KEY)
    if stored is None:
        raise damaged(path, "its footer has no provenance")
    try:
        violations = _object(stored).get("violations", [])
        return Footer(Provenance.from_json(stored.decode()), tuple(violations), schema, rows)
    except ValueError as error:
        raise damaged(path, error) from error
