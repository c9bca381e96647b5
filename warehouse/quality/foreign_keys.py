"""Checks of foreign keys in SQL: rows of a table without their row in the table to which they refer."""

from prunescope.warehouse.schema.table import ForeignKey, Table
from prunescope.warehouse.tables import TABLES


def check_name(reference: ForeignKey) -> str:
    """Return the name of the check, such as `rows_have_their_variants`."""
    return f"rows_have_their_{reference.table}"


def orphans(table: Table, reference: ForeignKey) -> str:
    """Return the SELECT of the keys in a table that the other table lacks."""
    columns = ", ".join(reference.columns)
    return (
        f"SELECT DISTINCT {columns} FROM {table.name} "  # noqa: S608 - names of ours
        f"ANTI JOIN {reference.table} USING ({columns}) ORDER BY ALL"
    )


def assertions() -> dict[str, str]:
    """Return `orphans` of every foreign key, by table and check name."""
    return {
        f"{table.name}_{check_name(reference)}": orphans(table, reference)
        for table in TABLES.values()
        for reference in table.references
    }
