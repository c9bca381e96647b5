"""What every column of every view means: its own note in the view's header, else that of the column it passes on.

Only reads headers and definitions; which views there are is the catalogue's business.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from prunescope.warehouse.core.errors import CatalogueError
from prunescope.warehouse.tables import TABLES

_COLUMNS = "columns:"
_NOTE = re.compile(r"   (?P<name>\w+): (?P<doc>.+?)(?: \[(?P<unit>[^\[\]]+)\])?(?: = (?P<formula>.+))?")
_CONTINUED = "     "


@dataclass(frozen=True)
class ColumnDoc:
    """What a column is.

    Attributes:
        doc: one sentence.
        unit: physical or logical unit; empty where the sentence says it.
        formula: how it is computed.
        source: theorem, section or definition that it comes from.
    """

    doc: str
    unit: str = ""
    formula: str = ""
    source: str = ""

    def comment(self) -> str:
        """The one-line comment that DuckDB shows."""
        unit, formula = f" [{self.unit}]" if self.unit else "", f" = {self.formula}" if self.formula else ""
        return f"{self.doc}{unit}{formula}" + (f" ({self.source})" if self.source else "")


class ColumnDocs(Protocol):
    """The parts of a view that this module reads."""

    @property
    def name(self) -> str:
        """The view's name."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Its columns."""

    @property
    def notes(self) -> Mapping[str, ColumnDoc]:
        """What its header says of them."""

    @property
    def depends_on(self) -> tuple[str, ...]:
        """Tables and views that it reads."""


# Of the view over all footers, which no file defines.
PROVENANCE_COLUMNS = {
    "table_name": ColumnDoc("Name of the table."),
    "path": ColumnDoc("The Parquet file."),
    "model": ColumnDoc("Name of the dense model."),
    "recipe": ColumnDoc("Name of the recipe; NULL in tables with one file per model."),
    "fingerprint": ColumnDoc("SHA-256 of everything that the rows depend on: equal fingerprint, equal rows."),
    "study": ColumnDoc("Name of the study that computed the file."),
    "code_version": ColumnDoc("Version of the code that computed the rows."),
    "device": ColumnDoc("What it ran on."),
    "dtype": ColumnDoc("Type of the model's weights."),
    "seed": ColumnDoc("Seed of the run."),
    "seconds": ColumnDoc("Time that the computation took.", "s"),
    "created_at": ColumnDoc("When the file was written, UTC."),
    "inputs_json": ColumnDoc("Hashes of weights, recipe, prompts and settings by name, as JSON."),
    "libraries_json": ColumnDoc("Versions by library, as JSON."),
    "violations": ColumnDoc("Checks of its table that the rows break; empty where all is well."),
    "content_hash": ColumnDoc("Hash of the rows, whatever file they lie in; NULL in files of the first version."),
    "provenance_hash": ColumnDoc("SHA-256 of the provenance above; NULL in files of the first version."),
    "rows": ColumnDoc("Number of rows."),
    "bytes": ColumnDoc("Size of the file.", "byte"),
}


def split_header(comment: Iterable[str], path: object) -> tuple[str, dict[str, ColumnDoc]]:
    """A view's header without its part `columns:`, and that part.

    A note is a line `--   name: what it is [unit] = formula`, where unit and formula may be left out; a line that is
    indented by two more blanks continues it.

    Args:
        comment: the lines of the header.
        path: the file, for messages.

    Raises:
        CatalogueError: a line below `columns:` is no note, or a column has two.
    """
    prose: list[str] = []
    notes: list[str] = []
    is_note = False
    for line in comment:
        text = line.strip().removeprefix("--").rstrip()
        if text.strip() == _COLUMNS:
            is_note = True
        elif is_note and text.startswith(_CONTINUED) and notes:
            notes[-1] += f" {text.strip()}"
        elif is_note and text.startswith("   "):
            notes.append(text)
        else:
            is_note = False
            prose.append(text.lstrip("-").strip())
    explained: dict[str, ColumnDoc] = {}
    for note in notes:
        parts = _NOTE.fullmatch(note)
        if parts is None:
            raise CatalogueError(f"{path}: {note.strip()!r} is no note; write `name: what it is [unit] = formula`")
        if parts["name"] in explained:
            raise CatalogueError(f"{path}: column {parts['name']} is explained twice")
        explained[parts["name"]] = ColumnDoc(parts["doc"], parts["unit"] or "", parts["formula"] or "")
    return "\n".join(prose).strip(), explained


def explain(views: Iterable[ColumnDocs]) -> dict[str, dict[str, ColumnDoc]]:
    """What each column of each table and view is.

    A view's column without a note is the one of that name in what it reads; where two of those differ it needs a note
    and is left out here.

    Args:
        views: each after those that it reads.
    """
    known = {
        table.name: {
            column.name: ColumnDoc(column.doc, column.unit, column.formula, column.source) for column in table.columns
        }
        for table in TABLES.values()
    }
    for view in views:
        known[view.name] = found = dict[str, ColumnDoc]()
        for column in view.columns:
            if column in view.notes:
                found[column] = view.notes[column]
                continue
            passed_on = {known[name][column] for name in view.depends_on if column in known.get(name, {})}
            if len(passed_on) == 1:
                [found[column]] = passed_on
    return known
