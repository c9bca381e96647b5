"""Formats of printed tables: heading, unit, digits and uncertainty of each column, and which values are better.

`paper_tables` declares the formats of a paper's tables. For any other view `derived` reads the column names.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class ColumnFormat:
    """One column of a printed table.

    Attributes:
        name: the view's column.
        heading: its heading; the name if empty.
        unit: after the heading.
        error: column with its standard error.
        interval: columns with the lower and upper end of its interval.
        best: which values are marked: the smallest (`min`), the largest (`max`), or none.
        scale: factor of values and uncertainty, such as 100 for a share in %.
        of: column with the total of this count, shown as `3 of 5`.
    """

    name: str
    heading: str = ""
    unit: str = ""
    error: str = ""
    interval: tuple[str, ...] = ()
    best: str = ""
    scale: int = 1
    of: str = ""

    @property
    def title(self) -> str:
        """Heading and unit."""
        return ", ".join(filter(None, (self.heading or self.name, self.unit)))

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of the view that it shows."""
        return tuple(filter(None, (self.name, self.error, *self.interval, self.of)))


@dataclass(frozen=True)
class TableSpec:
    """One printed table.

    Attributes:
        caption: its caption.
        columns: from left to right.
        note: how to read it, below the table.
        within: columns whose values define a group; best and second best are marked within each group.
    """

    caption: str
    columns: tuple[ColumnFormat, ...]
    note: str = ""
    within: tuple[str, ...] = ()


def derived(parts: Mapping[str, str], schema: pa.Schema, units: Mapping[str, str]) -> TableSpec:
    """Return the format of a view without a declared one, from the parts of its header: all columns, with uncertainty.

    `x_se` is the standard error of `x`; `x_low` and `x_high` are the ends of its interval.
    """
    names = [field.name for field in schema if pa.types.is_floating(field.type)]
    taken: set[str] = set()
    columns = []
    for name in schema.names:
        error = f"{name}_se" if name in names and f"{name}_se" in names else ""
        ends = (f"{name}_low", f"{name}_high")
        interval = ends if not error and name in names and set(ends) <= set(names) else ()
        taken |= {error, *interval}
        unit = units.get(name, "")
        # The name `kl_nats` already contains the unit.
        columns.append(ColumnFormat(name, unit="" if unit in name.split("_") else unit, error=error, interval=interval))
    shown = tuple(column for column in columns if column.name not in taken)
    return TableSpec(parts["asks"], shown, parts.get("how to read", ""))
