"""Foreign keys in SQL: which rows of a table have no row in the table that they refer to.

The keys stand in the definitions of the tables; what a missing row means for a run is the caller's choice.
"""

from prunescope.warehouse.schema.table import ForeignKey, Table
from prunescope.warehouse.tables import TABLES


def check_name(reference: ForeignKey) -> str:
    """The name of the check, such as `rows_have_their_variants`."""
    return f"rows_have_their_{reference.table}"


def orphans(table: Table, reference: ForeignKey) -> str:
    """The SELECT of the keys that rows of a table hold and the other table has not: none where all is well."""
    columns = ", ".join(reference.columns)
    return (
        f"SELECT DISTINCT {columns} FROM {table.name} "  # noqa: S608 - names of ours
        f"ANTI JOIN {reference.table} USING ({columns}) ORDER BY ALL"
    )


def assertions() -> dict[str, str]:
    """`orphans` of every foreign key of every table, by a name that says which."""
    return {
        f"{table.name}_{check_name(reference)}": orphans(table, reference)
        for table in TABLES.values()
        for reference in table.references
    }
