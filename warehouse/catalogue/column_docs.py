"""Documentation of every column of every view: from the view's header, else from the column that it passes on."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import takewhile

from prunescope.warehouse.catalogue.view import View
from prunescope.warehouse.core.errors import CatalogueError
from prunescope.warehouse.schema.table import ColumnDoc
from prunescope.warehouse.tables import TABLES

_NOTE = re.compile(r"   (?P<name>\w+): (?P<doc>.+?)(?: \[(?P<unit>[^\[\]]+)\])?(?: = (?P<formula>.+))?")

# Suffixes of two ends of one quantity, and how the notes on them begin.
_ENDS = (
    ("_low", "Lower end of", "_high", "Upper end of"),
    ("_p10", "10th percentile of", "_p90", "90th percentile of"),
)
# Names of standard errors, and what a column of such a name is without a note.
_ERROR = re.compile(r"(?P<of>\w+)_se(?P<iid>_iid)?")
_ERRORS = {None: "Standard error of {}", "_iid": "Standard error of {} as if all tokens were independent"}

# Columns of the view over all footers, which no SQL file defines.
PROVENANCE_COLUMNS = {
    "table_name": ColumnDoc("Name of the table."),
    "path": ColumnDoc("The Parquet file."),
    "model": ColumnDoc("Name of the dense model."),
    "recipe": ColumnDoc("Name of the recipe; NULL in tables with one file per model."),
    "fingerprint": ColumnDoc("SHA-256 of everything that the rows depend on: equal fingerprint, equal rows."),
    "study": ColumnDoc("Name of the study that computed the file."),
    "code_version": ColumnDoc("Version of the code that computed the rows."),
    "device": ColumnDoc("Device of the computation."),
    "dtype": ColumnDoc("Data type of the model's weights."),
    "seed": ColumnDoc("Seed of the run."),
    "seconds": ColumnDoc("Duration of the computation.", "s"),
    "created_at": ColumnDoc("Time at which the file was written, UTC."),
    "inputs_json": ColumnDoc("Hashes of weights, recipe, prompts and settings by name, as JSON."),
    "libraries_json": ColumnDoc("Versions by library, as JSON."),
    "violations": ColumnDoc("Checks of its table that the rows violate; empty without any."),
    "content_hash": ColumnDoc("Hash of the rows, independent of file layout; NULL in files of the first version."),
    "rows": ColumnDoc("Number of rows."),
    "bytes": ColumnDoc("Size of the file.", "byte"),
}


def split_header(comment: Iterable[str], path: object) -> tuple[str, dict[str, ColumnDoc]]:
    """Split a view's header into its prose and the notes of its part `columns:`.

    A note is a line `--   name: what it is [unit] = formula`, where unit and formula are optional; a line that is
    indented by two more blanks continues it.

    Raises:
        CatalogueError: a line below `columns:` is not a note, or a column has two notes.
    """
    lines = [line.strip().removeprefix("--").rstrip() for line in comment]
    start = next((number for number, line in enumerate(lines) if line.strip() == "columns:"), len(lines))
    noted = list(takewhile(lambda line: line.startswith("   "), lines[start + 1 :]))
    prose = [line.lstrip("-").strip() for line in (*lines[:start], *lines[start + 1 + len(noted) :])]
    explained: dict[str, ColumnDoc] = {}
    for note in re.sub(r"\n {5,}", " ", "\n".join(noted)).splitlines():
        parts = _NOTE.fullmatch(note)
        if parts is None:
            raise CatalogueError(f"{path}: {note.strip()!r} is not a note; write `name: what it is [unit] = formula`")
        if parts["name"] in explained:
            raise CatalogueError(f"{path}: column {parts['name']} is explained twice")
        explained[parts["name"]] = ColumnDoc(parts["doc"], parts["unit"] or "", parts["formula"] or "")
    return "\n".join(prose).strip(), explained


def explain(views: Iterable[View]) -> dict[str, dict[str, ColumnDoc]]:
    """Return the documentation of each column of each table and view.

    A note on `x_low` that begins with "Lower end of" is one on `x_high`, too; `_ENDS` has these pairs. A column without
    a note has that of the column of the same name in the tables and views that its view reads; without such a column,
    `x_se` is the standard error of `x`. If the sources differ, a column is left out, because it needs a note. Every
    view comes after the views that it reads.
    """
    known = {table.name: {column.name: column.documentation for column in table.columns} for table in TABLES.values()}
    for view in views:
        known[view.name] = documented = dict[str, ColumnDoc]()
        for column in view.columns:
            inherited = {known[name][column] for name in view.depends_on if column in known.get(name, {})}
            if column in view.notes:
                documented[column] = view.notes[column]
            elif other := _of_other_end(column, view.notes):
                documented[column] = other
            elif len(inherited) == 1:
                [documented[column]] = inherited
            elif (error := _ERROR.fullmatch(column)) and error["of"] in documented:
                said = _ERRORS[error["iid"]].format(error["of"])
                documented[column] = ColumnDoc(said, documented[error["of"]].unit)
    return known


def _of_other_end(column: str, notes: Mapping[str, ColumnDoc]) -> ColumnDoc | None:
    """Return what the note on the lower end of an interval says about its upper end; None if there is no such note."""
    for low, begins, high, other in _ENDS:
        note = notes.get(column.replace(high, low))
        if note and note.doc.startswith(begins):
            return replace(note, doc=f"{other}{note.doc.removeprefix(begins)}")
    return None
