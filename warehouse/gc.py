"""What lies in a warehouse and belongs to no study any more, with sizes; removing it is a step of its own.

Which studies there are is the caller's knowledge. Dagster's history, the catalogue and files of strangers stay.
"""

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from warehouse.atomic import STALE_SECONDS, refusals_explained, temporaries
from warehouse.errors import DamagedFileError
from warehouse.names import original, path_safe
from warehouse.places import Place
from warehouse.provenance import read_footer
from warehouse.store import Store
from warehouse.tables import TABLES

Kind = Literal["temporary", "partition", "variant", "unfinished", "report"]


@dataclass(frozen=True)
class Named:
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
class Waste:
    """A file that no study names.

    Attributes:
        kind: what it is.
        path: the file.
        bytes: its size.
        study: who computed it, from its footer; empty where a file does not tell.
    """

    kind: Kind
    path: Place
    bytes: int
    study: str = ""


def waste(store: Store, studies: Sequence[Named], local: Path) -> list[Waste]:
    """Everything that none of the studies names, kind by kind.

    Args:
        store: the warehouse.
        studies: all that are to be kept.
        local: its folder on this machine, see `Store.local`.

    Raises:
        WarehouseError: the warehouse cannot be read.
    """
    return [
        *(Waste("temporary", path, _size(path)) for path in temporaries(store.root)),
        *_partitions(store, studies),
        *_variants(store, studies),
        *_unfinished(local, studies),
        *_reports(store, studies),
    ]


def remove(store: Store, found: Iterable[Waste]) -> int:
    """Removes files and the folders that they leave empty; gives the bytes.

    Raises:
        WarehouseError: the system or the store refused.
    """
    freed = 0
    for each in found:
        with refusals_explained(each.path):
            each.path.unlink(missing_ok=True)
        freed += each.bytes
        if isinstance(each.path, Path):
            with suppress(OSError):  # the first folder that something is left in ends it
                for folder in each.path.parents:
                    if folder == store.root:
                        break
                    folder.rmdir()
    return freed


def _partitions(store: Store, studies: Sequence[Named]) -> Iterator[Waste]:
    for table in TABLES.values():
        for partition in store.partitions(table):
            if not _is_named(studies, partition.model, partition.recipe):
                yield Waste("partition", partition.path, _size(partition.path), _study(partition.path))


def _variants(store: Store, studies: Sequence[Named]) -> Iterator[Waste]:
    """Files of variants that no study names, and those that were pruned with other parameters than the row tells."""
    rows = {
        (path_safe(each.model), path_safe(each.recipe or "")): each for each in store.partitions(TABLES["variants"])
    }
    for path in store.files("_variants"):
        row = rows.get((path.parent.parent.name, path.parent.name))
        if row is None:
            # Its row comes a moment later: another machine may be at work.
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                yield Waste("variant", path, _size(path))
            continue
        with suppress(DamagedFileError):
            made = read_footer(row.path).provenance
            if not _is_named(studies, row.model, row.recipe) or made.fingerprint[:16] != path.stem:
                yield Waste("variant", path, _size(path), made.study)


def _unfinished(local: Path, studies: Sequence[Named]) -> Iterator[Waste]:
    for path in sorted((local / "_unfinished").rglob("*")):
        parts = path.relative_to(local / "_unfinished").parts
        if path.is_file() and not (len(parts) > 2 and _is_named(studies, original(parts[0]), parts[1])):
            yield Waste("unfinished", path, _size(path))


def _reports(store: Store, studies: Sequence[Named]) -> Iterator[Waste]:
    """A study with other models or recipes than its file says has eight digits behind its name."""
    names = {each.study for each in studies}
    for path in store.files("_reports"):
        if path.suffix == ".html" and not names & {path.stem, re.sub(r"-[0-9a-f]{8}$", "", path.stem)}:
            yield Waste("report", path, _size(path), path.stem)


def _is_named(studies: Sequence[Named], model: str | None, recipe: str | None) -> bool:
    return model is not None and any(each.has(model, recipe) for each in studies)


def _study(path: Place) -> str:
    try:
        return read_footer(path).provenance.study
    except DamagedFileError:
        return ""


def _size(path: Place) -> int:
    return int(path.stat().st_size)
