"""The version of every table and the fingerprint of its stored columns, which `table_versions.txt` keeps."""

import hashlib
from pathlib import Path

from prunescope.warehouse.schema.table import Table
from prunescope.warehouse.tables import TABLES

FILE = Path(__file__).with_name("table_versions.txt")


def listed(tables: dict[str, Table] = TABLES, file: Path = FILE) -> str:
    """Return a line per table.

    Raises:
        ValueError: the columns of a table differ from those in the file, but its version is the same.
    """
    kept = dict(line.split(maxsplit=1) for line in file.read_text(encoding="utf-8").splitlines())
    found = {table.name: f"{table.version} {fingerprint_of(table)}" for table in tables.values()}
    unraised = [
        name
        for name, entry in found.items()
        if name in kept and entry != kept[name] and int(kept[name].split()[0]) >= tables[name].version
    ]
    if unraised:
        raise ValueError(
            f"columns of {', '.join(unraised)} have changed: an added one is `since` the table's version + 1; a "
            "removed, renamed or retyped one needs a Migration to it"
        )
    return "".join(f"{name} {entry}\n" for name, entry in found.items())


def fingerprint_of(table: Table) -> str:
    columns = sorted((name, str(of)) for name, of in table.stored(table.version).items())
    return hashlib.sha256(repr(columns).encode()).hexdigest()[:12]
