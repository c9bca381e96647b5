"""Freshness of what the warehouse holds: tables, answers, reports, and the warehouse as a whole.

Without torch and Dagster, so that a run with nothing to do ends fast.
"""

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from prunescope.assets.planning.fingerprints import DenseModel, accepted
from prunescope.pipelines.recipes import Recipe
from prunescope.pipelines.reporting import charts, explorer
from prunescope.pipelines.studies import Study
from prunescope.warehouse.catalogue.database import SQL
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.file_state import stamp_of, stamps
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import fingerprint, read_footer
from prunescope.warehouse.tables import TABLES

if TYPE_CHECKING:
    from prunescope.warehouse.catalogue.lineage import Reading

# The last line of a report is this mark and the version of its contents.
_REPORT_MARK = "<!-- prunescope version "


def is_current(store: Store, table: str, study: Study, dense: DenseModel, recipe: Recipe | None) -> bool:
    """Return whether a partition was computed from the inputs that the study has now."""
    name = recipe.name if recipe else None
    return any(
        store.is_current(TABLES[table], dense.spec.name, name, version)
        for version in accepted(table, study, dense.identity, recipe)
    )


def programs_ran(store: Store, study: Study, dense: DenseModel, recipe: Recipe) -> bool:
    """Return whether the stored task scores came from executing generated code, which the study does not allow now."""
    own, *others = accepted("task_scores", study, dense.identity, recipe)
    return any(
        other != own and store.is_current(TABLES["task_scores"], dense.spec.name, recipe.name, other)
        for other in others
    )


def answer_version(store: Store, reading: "Reading") -> str:
    """Return the version of an answer: a hash of its SQL and of the partitions that it reads."""
    return fingerprint({"sql": reading.sql_hash, "partitions": table_partitions(store, reading.tables)})


def table_partitions(store: Store, tables: Iterable[str], study: Study | None = None) -> dict[str, str]:
    """Return the fingerprint of every partition of some tables, by its path; with a study, of its models and recipes.

    That of a damaged one is empty, because answers leave it out.
    """
    models = {model.name for model in study.models} if study else set()
    recipes = {None, *(recipe.name for recipe in study.recipes)} if study else set()
    return {
        str(partition.path.relative_to(store.root)): _stored_fingerprint(partition.path)
        for table in tables
        for partition in store.partitions(TABLES[table])
        if study is None or (partition.model in models and partition.recipe in recipes)
    }


def _stored_fingerprint(path: Place) -> str:
    """Return the fingerprint in a footer, or "" if it is damaged; an unchanged local file is read once per process."""
    try:
        stamp = stamp_of(path) if isinstance(path, Path) else None
        return stored_fingerprint(path, stamp) if stamp else read_footer(path).provenance.fingerprint
    except WarehouseError:
        return ""


@lru_cache(maxsize=1 << 20)
def stored_fingerprint(path: Place, _stamp: str) -> str:
    """Return the fingerprint in a footer, which is read again only when the stamp of the file has changed."""
    return read_footer(path).provenance.fingerprint


def charts_version() -> str:
    """Return the SHA-256 of the source of the charts, without their queries."""
    return _folder_hash(Path(charts.__path__[0]), ("*.py",))


def explorer_version() -> str:
    """Return the SHA-256 of the source of the report: its charts, documents, page and statements."""
    page = _folder_hash(Path(explorer.__path__[0]), ("*.py", "*.j2", "*.css", "*.js"))
    statements = {folder: _folder_hash(SQL / folder, ("*.sql",)) for folder in ("figures", "explorer")}
    return fingerprint({"charts": charts_version(), "page": page, "sql": statements})


def report_version(store: Store, study: Study, partitions: Mapping[str, str] | None = None) -> str:
    """Return the version that a study's report has if it is written now.

    `partitions` is the result of `table_partitions` for all tables and the study, if the caller has it already.
    """
    if partitions is None:
        partitions = table_partitions(store, TABLES, study)
    others = (table.name for table in TABLES.values() if not table.is_study_output)
    return fingerprint(
        {
            "study": study.hash,
            "partitions": dict(partitions),
            "of no study": table_partitions(store, others),
            "sql": _folder_hash(SQL, ("*.sql",)),
            # The report shows the staging views, which follow from the tables.
            "columns": {table.name: [column.name for column in table.columns] for table in TABLES.values()},
            "explorer": explorer_version(),
        }
    )


def stale_report(store: Store, study: Study, partitions: Mapping[str, str] | None = None) -> str | None:
    """Return the version that the report should have, or None if it has it; arguments as `report_version`."""
    version, path, written = report_version(store, study, partitions), store.root / report_file(study), ""
    if path.is_file():
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 200))
            end = file.read().decode(errors="replace")
        written = end.rpartition(_REPORT_MARK)[2].removesuffix(" -->\n")
    return None if version == written else version


def report_file(study: Study) -> str:
    """Return the path of a study's report in the warehouse."""
    return f"_reports/{study.name}{'-' if study.subset else ''}{study.subset}.html"


def write_report(path: Path, page: str, version: str) -> None:
    """Write a report with the version of its contents in the last line."""
    path.write_text(f"{page.rstrip()}\n{_REPORT_MARK}{version} -->\n", encoding="utf-8")


def warehouse_version(store: Store) -> str:
    """Return a hash of the partitions' paths and their files' stamps."""
    paths = {str(partition.path): partition.path for table in TABLES.values() for partition in store.partitions(table)}
    found = {name: stamp for name, (_, stamp) in stamps(store.root, paths).items()}
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:16]


def _folder_hash(folder: Path, patterns: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in folder.rglob(pattern)):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
