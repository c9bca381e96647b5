"""A view of `sql/`, and the documentation of a column."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ColumnDoc:
    """Documentation of a column: one sentence, and its unit, formula and source if it has them."""

    doc: str
    unit: str = ""
    formula: str = ""
    source: str = ""

    def comment(self) -> str:
        """Return the one-line comment that DuckDB shows."""
        unit, formula = f" [{self.unit}]" if self.unit else "", f" = {self.formula}" if self.formula else ""
        return f"{self.doc}{unit}{formula}{f' ({self.source})' if self.source else ''}"


@dataclass(frozen=True)
class View:
    """A view: a file of `sql/`, or the staging view of a table.

    Attributes:
        name: the file's stem, and the view's name.
        layer: its folder in `sql/`: staging, intermediate, marts or questions; it may lie in a subfolder of that.
        sql: the bare SELECT, header included.
        header: the comment above it, without dashes and without its notes on columns.
        columns: its columns, in order.
        notes: what the header says about columns, by name.
        depends_on: the tables and views that it reads.
        path: the file; that of a staging view may not exist, or holds only its computed columns.
    """

    name: str
    layer: str
    sql: str
    header: str
    columns: tuple[str, ...]
    notes: Mapping[str, ColumnDoc]
    depends_on: tuple[str, ...]
    path: Path

    @property
    def subject(self) -> str:
        """Return the name of the view's subfolder in its layer, empty if the file lies in the layer's own folder."""
        return "" if self.path.parent.name == self.layer else self.path.parent.name
