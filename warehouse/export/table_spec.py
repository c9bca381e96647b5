"""How a table is to be typeset: heading, unit and digits of each column, whose uncertainty it is, which way is better.

Declarations only; the tables of a paper are declared in `paper_tables`, for all else `derived` reads the names.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from prunescope.warehouse.catalogue import view_header


@dataclass(frozen=True)
class ColumnFormat:
    """One column of a printed table.

    Attributes:
        name: the view's column.
        heading: above it; the name where empty.
        unit: behind the heading.
        error: column with its standard error.
        interval: columns with the lower and upper end of its interval.
        best: which values are marked: the smallest (`min`), the largest (`max`), or none.
        digits: significant digits where there is no uncertainty.
        scale: what values and uncertainty are multiplied with, such as 100 for a share in %.
        of: column with the number that this count is out of, shown as `3 of 5`.
    """

    name: str
    heading: str = ""
    unit: str = ""
    error: str = ""
    interval: tuple[str, ...] = ()
    best: str = ""
    digits: int = 3
    scale: int = 1
    of: str = ""

    @property
    def title(self) -> str:
        """Heading and unit."""
        return f"{self.heading or self.name}, {self.unit}" if self.unit else self.heading or self.name

    @property
    def reads(self) -> tuple[str, ...]:
        """The view's columns that it shows."""
        return tuple(filter(None, (self.name, self.error, *self.interval, self.of)))


@dataclass(frozen=True)
class TableSpec:
    """One printed table.

    Attributes:
        caption: what it shows.
        columns: from left to right.
        note: how to read it, below the table.
        within: columns; best and second best are looked for among the rows that share their values.
        unmarked: recipes that are never marked: what all others are held against.
    """

    caption: str
    columns: tuple[ColumnFormat, ...]
    note: str = ""
    within: tuple[str, ...] = ()
    unmarked: tuple[str, ...] = ("dense",)


def derived(header: str, schema: pa.Schema, units: Mapping[str, str]) -> TableSpec:
    """The layout of a view that declares none: all its columns, each with the uncertainty that its neighbours name.

    `x_se` is the standard error of `x`, `x_low` and `x_high` are the ends of its interval.

    Args:
        header: of the view's file.
        schema: of its rows.
        units: unit by column.
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
        # `kl_nats` says its unit itself.
        columns.append(ColumnFormat(name, unit="" if unit in name.split("_") else unit, error=error, interval=interval))
    told = view_header.parse(header)
    return TableSpec(told.asks, tuple(column for column in columns if column.name not in taken), told.how_to_read)
