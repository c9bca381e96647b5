"""A view of `sql/` and the parts of its header."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from prunescope.warehouse.schema.table import ColumnDoc

_PART = re.compile(r"(grain|key|across|inputs|how to read|reason): *")


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

    @cached_property
    def parts(self) -> Mapping[str, str]:
        """Parts of the header by name, as `header_parts` returns them."""
        return header_parts(self.header)

    @property
    def key(self) -> tuple[str, ...]:
        """Columns that identify a row; empty if the view has one row."""
        names = tuple(re.findall(r"\w+", self.parts.get("key", "")))
        return () if names == ("none",) else names


def header_parts(header: str) -> dict[str, str]:
    """Return the parts of a header by name, in its order: `asks`, its first paragraph, then `grain` and others.

    `across` is `models` if a row depends on several models. Without it a row depends on its own model alone.
    """
    parts, part = {"asks": ""}, "asks"
    for line in header.splitlines():
        if begins := _PART.match(line):
            part = begins[1]
        parts[part] = f"{parts.get(part, '')} {line.removeprefix(begins[0] if begins else '')}".strip()
    return parts


def joins(name: str, columns: Collection[str], keys: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return, by table, the columns of a join in which each row matches at most one row of that table."""
    return {other: key for other, key in keys.items() if other != name and key and set(key) <= set(columns)}
