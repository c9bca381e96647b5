"""Formats of printed tables: heading, unit and scale of each column, and which values are better.

`paper_tables` declares the formats of a paper's tables. For any other view `derived` reads the column names, which also
say which columns are uncertainties of others.
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
        best: which values are marked: the smallest (`min`), the largest (`max`), or none.
        scale: factor of values and uncertainty, such as 100 for a share in %.
        of: column with the total of this count, shown as `3 of 5`.
    """

    name: str
    heading: str = ""
    unit: str = ""
    best: str = ""
    scale: int = 1
    of: str = ""

    @property
    def title(self) -> str:
        """Heading and unit."""
        return ", ".join(filter(None, (self.heading or self.name, self.unit)))


@dataclass(frozen=True)
class TableSpec:
    """One printed table.

    Attributes:
        columns: from left to right.
        note: how to read it, below the table.
        within: columns whose values define a group; best and second best are marked within each group.
    """

    caption: str
    columns: tuple[ColumnFormat, ...]
    note: str = ""
    within: tuple[str, ...] = ()


def uncertainty(name: str, schema: pa.Schema) -> tuple[str, ...]:
    """Return the columns with the uncertainty of `x`: `x_se` (standard error), else `x_low` and `x_high` (interval)."""
    floats = {field.name for field in schema if pa.types.is_floating(field.type)}
    candidates = ((f"{name}_se",), (f"{name}_low", f"{name}_high"))
    return next((found for found in candidates if floats >= {name, *found}), ())


def derived(parts: Mapping[str, str], schema: pa.Schema, units: Mapping[str, str]) -> TableSpec:
    """Return the format of a view without a declared one, from the parts of its header: all columns, with units."""
    taken = {other for name in schema.names for other in uncertainty(name, schema)}
    # The name `kl_nats` already contains the unit.
    shown = {name: units.get(name, "") for name in schema.names if name not in taken}
    columns = (ColumnFormat(name, unit="" if unit in name.split("_") else unit) for name, unit in shown.items())
    return TableSpec(parts["asks"], tuple(columns), parts.get("how to read", ""))
