"""Whether what stands on the tables still holds: one hash over SQL and the fingerprints of all partitions it reads.

No torch and no Dagster, so that a run with nothing to do ends fast.
"""

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from prunescope.pipelines.reporting import charts, explorer
from prunescope.pipelines.studies import Study
from prunescope.warehouse.catalogue.database import SQL
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import fingerprint, read_footer
from prunescope.warehouse.tables import TABLES

if TYPE_CHECKING:
    from prunescope.warehouse.catalogue.lineage import Reading


def data_version(store: Store, found: "Reading") -> str:
    """Version of an answer: its SQL and the partitions under it."""
    return fingerprint({"sql": found.sql_hash, "partitions": partitions(store, found.tables)})


def partitions(store: Store, tables: Iterable[str]) -> dict[str, str]:
    """The fingerprint of every partition of some tables, by its place in the warehouse.

    Raises:
        DamagedFileError: a partition is damaged.
    """
    return {
        str(partition.path.relative_to(store.root)): _made_from(partition.path)
        for table in tables
        for partition in store.partitions(TABLES[table])
    }


def _made_from(path: Place) -> str:
    """The fingerprint in a footer. Every question and figure asks for it again: a file that stays is read once."""
    if not isinstance(path, Path):
        return read_footer(path).provenance.fingerprint
    status = path.stat()
    return _read(path, (status.st_mtime_ns, status.st_size, status.st_ino))


@lru_cache(maxsize=1 << 20)
def _read(path: Path, _: tuple[int, int, int]) -> str:
    return read_footer(path).provenance.fingerprint


def charts_version() -> str:
    """SHA-256 over the source of the charts."""
    return _folder_hash(Path(charts.__path__[0]), ("*.py",))


def explorer_version() -> str:
    """SHA-256 over the source of the report: its charts, documents and page."""
    page = _folder_hash(Path(explorer.__path__[0]), ("*.py", "*.j2", "*.css", "*.js"))
    return fingerprint({"charts": charts_version(), "page": page})


def report_version(store: Store, study: Study, found: Mapping[str, str] | None = None) -> str:
    """Version of a study's report.

    Args:
        store: the warehouse.
        study: the study.
        found: what `partitions_of` gives, for callers that know it already.
    """
    return fingerprint(
        {
            "study": study.hash,
            "partitions": dict(partitions_of(store, study) if found is None else found),
            "of no study": partitions(store, (table.name for table in TABLES.values() if not table.is_study_output)),
            "sql": _folder_hash(SQL, ("*.sql",)),
            "explorer": explorer_version(),
        }
    )


def partitions_of(store: Store, study: Study) -> dict[str, str]:
    """The fingerprint of every partition of a study's models and recipes, by its place in the warehouse."""
    models, recipes = {model.name for model in study.models}, {recipe.name for recipe in study.recipes}
    return {
        str(partition.path.relative_to(store.root)): _made_from(partition.path)
        for table in TABLES.values()
        for partition in store.partitions(table)
        if partition.model in models and partition.recipe in {None, *recipes}
    }


def _folder_hash(folder: Path, patterns: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in folder.rglob(pattern)):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
