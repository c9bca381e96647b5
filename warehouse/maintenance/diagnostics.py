"""Diagnosis of a warehouse: problems of its files, folders and views, each with a fix; it changes nothing."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prunescope.pipelines.core.atomic_write import PREFIX
from prunescope.warehouse.catalogue.database import connect
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.quality.foreign_keys import orphans
from prunescope.warehouse.schema.migrations import lacks
from prunescope.warehouse.schema.table import Table
from prunescope.warehouse.storage.atomic_write import temporaries
from prunescope.warehouse.storage.location import Place
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import REPAIR, read_footer
from prunescope.warehouse.tables import TABLES

LOW_SPACE = 1 << 30


@dataclass(frozen=True)
class Diagnosis:
    """A problem of a file or folder: an error if results are wrong or cannot be stored, otherwise a warning."""

    level: Literal["error", "warning"]
    subject: str
    message: str
    fix: str


def diagnose(root: Place | str) -> list[Diagnosis]:
    """Return all problems of a warehouse that exists; read every file whole."""
    store = Store(root)
    findings = list(_folder(store.root))
    for table in TABLES.values():
        findings += _table(store, table)
    findings += _unknown_files(store.root)
    findings += [
        Diagnosis("warning", str(path), "left behind by a run that was killed", "delete it")
        for path in temporaries(store.root)
    ]
    if not any(finding.level == "error" for finding in findings):
        findings += _views(store.root)
    return findings


def _folder(root: Place) -> Iterator[Diagnosis]:
    if not isinstance(root, Path):  # a store reports neither space nor permissions
        return
    if not os.access(root, os.W_OK | os.X_OK):
        yield Diagnosis("error", str(root), "cannot be written", "make it writable, or use --warehouse")
    free = shutil.disk_usage(root).free
    if free < LOW_SPACE:
        yield Diagnosis("warning", str(root), f"has {free >> 20} MiB left", "free some space, or use --warehouse")


def _table(store: Store, table: Table) -> Iterator[Diagnosis]:
    places = [partition.path for partition in store.partitions(table)]
    for path in places:
        yield from _partition(store, table, path)
    for path in store.files(table.name):
        if path not in places and not path.name.startswith(PREFIX):
            yield Diagnosis("warning", str(path), "is no partition and is not read", "move it out of the warehouse")


def _partition(store: Store, table: Table, path: Place) -> Iterator[Diagnosis]:
    try:
        footer = read_footer(path)
        store.read(table, footer.provenance.model, footer.provenance.recipe)
    except FileNotFoundError:  # removed since it was listed
        return
    except WarehouseError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return
        yield Diagnosis("error", str(path), str(error), REPAIR)
        return
    for violation in footer.violations:
        yield Diagnosis("error", str(path), f"violates a check: {violation}", "run its study again, then report it")
    if footer.version is None:
        differing = ", ".join(sorted(set(table.arrow().names) ^ set(footer.schema.names))) or "their types"
        message = f"fits no version of its table: its columns differ in {differing}"
        yield Diagnosis("warning", str(path), message, "run its study again")
    elif footer.version < table.version:
        missing = ", ".join(lacks(table, footer.version))
        message = f"was written by version {footer.version} of its table, which has {table.version} now: it is read"
        message += f" with NULL for {missing}" if missing else ""
        yield Diagnosis("warning", str(path), message, "run its study again")


def _unknown_files(root: Place) -> Iterator[Diagnosis]:
    for name in sorted(path.name for path in root.iterdir()):
        if name not in TABLES and not name.startswith(("_", ".")):
            yield Diagnosis("warning", str(root / name), "is none of the tables", "move it out of the warehouse")


def _views(root: Place) -> Iterator[Diagnosis]:
    try:
        connection = connect(root)
    except WarehouseError as error:
        yield Diagnosis("error", "sql", str(error), "install the package again, or correct the view")
        return
    with connection:
        for table in TABLES.values():
            for reference in table.references:
                missing = connection.sql(orphans(table, reference)).fetchall()
                if missing:
                    message = f"{len(missing)} of its {' @ '.join(reference.columns)} are not in {reference.table}"
                    message += f", such as {'@'.join(missing[0])}"
                    yield Diagnosis("error", table.name, message, "run its study again, or move its files away")
