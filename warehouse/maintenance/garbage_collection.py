"""What lies in a warehouse and is named by no study, with sizes and whose it is; removing it is a step of its own.

Which studies there are, and whose results may go, is the caller's knowledge. Dagster's history, the catalogue and
files of strangers stay.
"""

import re
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prunescope.warehouse.core.errors import DamagedFileError
from prunescope.warehouse.storage.atomic_write import STALE_SECONDS, temporaries, translate_os_errors
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.partition_store import Partition, Store
from prunescope.warehouse.storage.path_names import original, path_safe
from prunescope.warehouse.storage.provenance import read_footer
from prunescope.warehouse.tables import TABLES

# Begins the name of a folder in which `plan` tries how fast the disk is.
TRIED = ".plan-"
Kind = Literal["temporary", "partition", "variant", "unfinished", "report"]


@dataclass(frozen=True)
class StudyScope:
    """What one study names.

    Attributes:
        study: its name.
        models: names of its models.
        recipes: names of its recipes.
    """

    study: str
    models: frozenset[str]
    recipes: frozenset[str]

    def has(self, model: str, recipe: str | None) -> bool:
        """Whether a partition is one of the study's; those of a model itself have no recipe."""
        return model in self.models and (recipe is None or recipe in self.recipes)


@dataclass(frozen=True)
class OrphanFile:
    """A file that no study names.

    Attributes:
        kind: what it is.
        path: the file.
        bytes: its size.
        study: who computed it or the result that it belongs to, from a footer; empty where none tells.
    """

    kind: Kind
    path: Place
    bytes: int
    study: str = ""

    @property
    def is_result(self) -> bool:
        """Whether results go with it: a study file does not name what `run --model` or `--recipe` computed."""
        return bool(self.study) or self.kind in {"partition", "report"}


Rows = dict[tuple[str, str], Partition]


def waste(store: Store, studies: Sequence[StudyScope], local: Path) -> list[OrphanFile]:
    """Everything that none of the studies names, kind by kind.

    Args:
        store: the warehouse.
        studies: all that are to be kept.
        local: its folder on this machine, see `Store.local`.

    Raises:
        WarehouseError: the warehouse cannot be read.
    """
    rows = {
        (path_safe(each.model), path_safe(each.recipe or "")): each for each in store.partitions(TABLES["variants"])
    }
    partitions = list(_partitions(store, studies))
    return [
        *(each for path in temporaries(store.root) for each in _waste("temporary", path)),
        *_tried(local),
        *partitions,
        *_variants(store, studies, rows),
        *_unfinished(local, studies, rows),
        *_reports(store, studies, {each.study for each in partitions}),
    ]


def removable(found: Iterable[OrphanFile], computed_by: Container[str]) -> list[OrphanFile]:
    """What holds no results, and all that these studies computed; damaged files, which tell no study, are neither."""
    return [each for each in found if not each.is_result or (each.study and each.study in computed_by)]


def remove(store: Store, found: Iterable[OrphanFile]) -> int:
    """Removes files and the folders that they leave empty; gives the bytes.

    Raises:
        WarehouseError: the system or the store refused.
    """
    freed = 0
    for each in found:
        with translate_os_errors(each.path):
            each.path.unlink(missing_ok=True)
        freed += each.bytes
        if isinstance(each.path, Path):
            with suppress(OSError):  # the first folder that something is left in ends it
                for folder in each.path.parents:
                    if folder == store.root:
                        break
                    folder.rmdir()
    return freed


def _partitions(store: Store, studies: Sequence[StudyScope]) -> Iterator[OrphanFile]:
    for table in TABLES.values():
        for partition in store.partitions(table) if table.is_study_output else ():
            if not _is_named(studies, partition.model, partition.recipe):
                yield from _waste("partition", partition.path, _study(partition.path))


def _variants(store: Store, studies: Sequence[StudyScope], rows: Rows) -> Iterator[OrphanFile]:
    """Files of variants that no study names, and those that no row tells of, or only with other parameters."""
    for path in store.files("_variants"):
        row = rows.get((path.parent.parent.name, path.parent.name))
        with suppress(DamagedFileError, FileNotFoundError):
            made = read_footer(row.path).provenance if row else None
            if row is None or made is None or made.fingerprint[:16] != path.stem:
                # Its row comes a moment later: another machine may be at work.
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    yield from _waste("variant", path)
            elif not _is_named(studies, row.model, row.recipe):
                yield from _waste("variant", path, made.study)


def _unfinished(local: Path, studies: Sequence[StudyScope], rows: Rows) -> Iterator[OrphanFile]:
    for path in sorted((local / "_unfinished").rglob("*")):
        parts = path.relative_to(local / "_unfinished").parts
        model, recipe = (parts[0], parts[1]) if len(parts) > 2 else ("", "")
        if path.is_file() and not (recipe and _is_named(studies, original(model), recipe)):
            row = rows.get((model, path_safe(recipe))) if recipe else None
            yield from _waste("unfinished", path, _study(row.path) if row else "")


def _reports(store: Store, studies: Sequence[StudyScope], rests: Container[str]) -> Iterator[OrphanFile]:
    """Those of no study, and of a study with unnamed results those with eight digits: it ran in parts, or with more."""
    names = {each.study for each in studies}
    for path in store.files("_reports"):
        study = re.sub(r"-[0-9a-f]{8}$", "", path.stem)
        if path.suffix == ".html" and path.stem not in names and (study not in names or study in rests):
            yield from _waste("report", path, study)


def _tried(local: Path) -> Iterator[OrphanFile]:
    """What a killed `plan` wrote to see how fast that is; one that goes on has begun less than an hour ago."""
    for path in sorted(local.glob(f"{TRIED}*/**/*")):
        if path.is_file() and time.time() - path.stat().st_mtime > STALE_SECONDS:
            yield from _waste("temporary", path)


def _is_named(studies: Sequence[StudyScope], model: str | None, recipe: str | None) -> bool:
    return model is not None and any(each.has(model, recipe) for each in studies)


def _study(path: Place) -> str:
    try:
        return read_footer(path).provenance.study
    except (DamagedFileError, FileNotFoundError):
        return ""


def _waste(kind: Kind, path: Place, study: str = "") -> Iterator[OrphanFile]:
    """The file, or nothing where it was removed since it was listed."""
    with suppress(FileNotFoundError):
        yield OrphanFile(kind, path, int(path.stat().st_size), study)
