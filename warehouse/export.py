"""The questions and marts as files for a paper, with a manifest that says where each number came from.

Two exports of one warehouse are equal byte for byte, so nothing here knows the time or the machine.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from warehouse.atomic import refusals_explained, write_atomically
from warehouse.catalogue import connect, quoted, view_sql
from warehouse.errors import WarehouseError
from warehouse.formats import render
from warehouse.places import Place

MANIFEST = "manifest.json"
_MADE_BY = "prunescope export"
_SUFFIXES = {"parquet": ".parquet", "csv": ".csv", "markdown": ".md", "latex": ".tex"}
# No one typesets more; Parquet and CSV have every row.
TYPESET_ROWS = 1000


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        directory: the folder.
        views: names of the exported views.
        files: the files, the manifest last.
    """

    directory: Path
    views: tuple[str, ...]
    files: tuple[Path, ...]


def export(root: Place | str, directory: Path, only: Sequence[str] | None = None) -> Exported:
    """Writes every question and mart as Parquet, CSV, Markdown and LaTeX, and the manifest.

    Markdown and LaTeX are left out for views of more than 1,000 rows.

    Args:
        root: the warehouse.
        directory: an empty or new folder, or one that an earlier export made, whose files are then replaced.
        only: names of the questions and marts to export; all where None.

    Raises:
        WarehouseError: a name is unknown, the folder holds something else, or it cannot be written.
    """
    views = {name: view for name, view in view_sql().items() if view.layer in {"marts", "questions"}}
    if unknown := [name for name in only or () if name not in views]:
        raise WarehouseError(f"there is no question or mart {', '.join(unknown)}; see `prunescope questions`")
    earlier = _earlier_files(directory)
    described: dict[str, dict[str, object]] = {}
    hashes: dict[str, str] = {}
    with connect(root) as connection:
        # In one thread sums add up in one order, so the last digit is the same every time.
        connection.execute("SET threads = 1")
        for name in sorted(only if only is not None else views):
            rows = connection.sql(f"SELECT * FROM {quoted(name)}").to_arrow_table()  # noqa: S608
            view = views[name]
            described[name] = {"rows": rows.num_rows, "columns": rows.column_names, "sql": view.sql}
            hashes |= _write(directory, name, rows)
        provenance = _fingerprints(connection)
    manifest = {"made_by": _MADE_BY, "files": hashes, "views": described, "provenance": provenance}
    for name in earlier - set(hashes):
        with refusals_explained(directory / name):
            (directory / name).unlink(missing_ok=True)
    _put(directory / MANIFEST, (json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())
    return Exported(directory, tuple(described), tuple(directory / name for name in [*hashes, MANIFEST]))


def _write(directory: Path, name: str, rows: pa.Table) -> dict[str, str]:
    """The view's files; returns the SHA-256 of each by its name."""
    hashes = {}
    for kind, suffix in _SUFFIXES.items():
        if kind in {"markdown", "latex"} and rows.num_rows > TYPESET_ROWS:
            continue
        rendered = render(rows, kind)
        content = rendered if isinstance(rendered, bytes) else rendered.encode()
        _put(directory / f"{name}{suffix}", content)
        hashes[f"{name}{suffix}"] = hashlib.sha256(content).hexdigest()
    return hashes


def _put(path: Path, content: bytes) -> None:
    write_atomically(path, lambda temporary: _fill(temporary, content))


def _fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _fingerprints(connection: duckdb.DuckDBPyConnection) -> list[dict[str, object]]:
    columns = ("table_name", "model", "recipe", "fingerprint")
    query = f"SELECT {', '.join(columns)} FROM provenance ORDER BY ALL"  # noqa: S608
    return [dict(zip(columns, row, strict=True)) for row in connection.execute(query).fetchall()]


def _earlier_files(directory: Path) -> set[str]:
    """Names of the files that an earlier export wrote here; refuses a folder with anything else in charge of it."""
    with refusals_explained(directory):
        if not directory.exists() or not any(directory.iterdir()):
            return set()
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
        made_by, files = manifest["made_by"], set(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        made_by, files = None, set()
    if made_by != _MADE_BY:
        raise WarehouseError(f"{directory} is not empty and no earlier export; choose a new folder")
    # A manifest from elsewhere must not name files to delete outside the folder.
    return {name for name in files if Path(name).name == name and name != ".."}
