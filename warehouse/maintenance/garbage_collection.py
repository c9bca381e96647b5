"""Files of a warehouse that no study names, and their removal.

Dagster's history, the catalogue and unknown files stay.
"""

import re
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.atomic_write import STALE_SECONDS, temporaries, translate_os_errors
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.partition_store import Partition, Store
from prunescope.warehouse.storage.path_names import original, path_safe
from prunescope.warehouse.storage.provenance import read_footer
from prunescope.warehouse.tables import TABLES

Kind = Literal["temporary", "partition", "variant", "unfinished", "report"]


@dataclass(frozen=True)
class StudyScope:
    """Names in one study."""

    study: str
    models: frozenset[str]
    recipes: frozenset[str]


@dataclass(frozen=True)
class OrphanFile:
    """A file that no study names; `study` computed it or its result and is empty if unknown."""

    kind: Kind
    path: Place
    bytes: int
    study: str = ""

    @property
    def is_result(self) -> bool:
        """Return whether it is a result; no study file names the results of `run --model` or `--recipe`."""
        return bool(self.study) or self.kind in {"partition", "report"}


Rows = dict[tuple[str, str], Partition]


def waste(store: Store, studies: Sequence[StudyScope], local: Path) -> list[OrphanFile]:
    """Return the files that none of the studies names, by kind, also from the folder `local` (see `Store.local`).

    Raises:
        WarehouseError: the warehouse cannot be read.
    """
    variants = store.partitions(TABLES["variants"])
    rows = {(path_safe(variant.model), path_safe(variant.recipe or "")): variant for variant in variants}
    partitions = list(_partitions(store, studies))
    return [
        *(orphan for path in temporaries(store.root) for orphan in _orphan("temporary", path)),
        *partitions,
        *_variants(store, studies, rows),
        *_unfinished(local, studies, rows),
        *_reports(store, studies, {partition.study for partition in partitions}),
    ]


def removable(orphans: Iterable[OrphanFile], computed_by: Container[str]) -> list[OrphanFile]:
    """Return files without results, and results of these studies; damaged files name no study and stay."""
    return [file for file in orphans if not file.is_result or (file.study and file.study in computed_by)]


def remove(store: Store, orphans: Iterable[OrphanFile]) -> int:
    """Remove files and the folders that become empty; return the freed bytes.

    Raises:
        WarehouseError: a file cannot be removed.
    """
    freed = 0
    for file in orphans:
        with translate_os_errors(file.path):
            file.path.unlink(missing_ok=True)
        freed += file.bytes
        if isinstance(file.path, Path):
            with suppress(OSError):  # the first folder that is not empty
                for folder in file.path.parents:
                    if folder == store.root:
                        break
                    folder.rmdir()
    return freed


def _partitions(store: Store, studies: Sequence[StudyScope]) -> Iterator[OrphanFile]:
    for table in TABLES.values():
        for partition in store.partitions(table) if table.is_study_output else ():
            if not _is_named(studies, partition.model, partition.recipe):
                yield from _orphan("partition", partition.path, _study(partition.path))


def _variants(store: Store, studies: Sequence[StudyScope], rows: Rows) -> Iterator[OrphanFile]:
    """Yield files of variants that no study names, that have no row, or whose row has other parameters."""
    for path in store.files("_variants"):
        row = rows.get((path.parent.parent.name, path.parent.name))
        with suppress(WarehouseError, FileNotFoundError):
            provenance = read_footer(row.path).provenance if row else None
            if row is None or provenance is None or provenance.fingerprint[:16] != path.stem:
                # Another machine may be about to write the row of a new file.
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    yield from _orphan("variant", path)
            elif not _is_named(studies, row.model, row.recipe):
                yield from _orphan("variant", path, provenance.study)


def _unfinished(local: Path, studies: Sequence[StudyScope], rows: Rows) -> Iterator[OrphanFile]:
    for path in sorted((local / "_unfinished").rglob("*")):
        parts = path.relative_to(local / "_unfinished").parts
        model, recipe = (parts[0], parts[1]) if len(parts) > 2 else ("", "")
        # An interrupted search is a study's whose model it searches.
        named = None if recipe.startswith("search-") else recipe
        if path.is_file() and not (recipe and _is_named(studies, original(model), named)):
            row = rows.get((model, path_safe(recipe))) if recipe else None
            yield from _orphan("unfinished", path, _study(row.path) if row else "")


def _reports(store: Store, studies: Sequence[StudyScope], orphaned: Container[str]) -> Iterator[OrphanFile]:
    """Yield reports of no study, and reports with a hash in their name of studies with orphaned results."""
    names = {study.study for study in studies}
    for path in store.files("_reports"):
        study = re.sub(r"-[0-9a-f]{8}$", "", path.stem)
        if path.suffix == ".html" and path.stem not in names and (study not in names or study in orphaned):
            yield from _orphan("report", path, study)


def _is_named(studies: Sequence[StudyScope], model: str | None, recipe: str | None) -> bool:
    """Return whether a study names a partition; partitions per model have no recipe."""
    return any(model in study.models and (recipe is None or recipe in study.recipes) for study in studies)


def _study(path: Place) -> str:
    try:
        return read_footer(path).provenance.study
    except (WarehouseError, FileNotFoundError):
        return ""


def _orphan(kind: Kind, path: Place, study: str = "") -> Iterator[OrphanFile]:
    """Yield the file, unless it was removed since it was listed."""
    with suppress(FileNotFoundError):
        yield OrphanFile(kind, path, int(path.stat().st_size), study)
