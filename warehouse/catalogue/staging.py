"""The SQL of staging views: a table's columns, `variant`, and the columns that a file of `sql/staging` computes."""

import re
from pathlib import Path

from prunescope.warehouse.schema.table import Table


def staging_sql(table: Table, path: Path) -> str:
    """Return the SELECT of a table's staging view, with its header.

    Args:
        table: the table. If its key names a variant, the view has the column `variant`.
        path: a file with the view's computed columns: a header with their notes (`columns:`) and, if needed,
            `how to read:`, then a SELECT of these columns alone. It may be missing. A computed column replaces the
            stored one of the same name.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else f"select\nfrom {table.name}\n"
    header, body = re.split(r"^select\b", text, maxsplit=1, flags=re.MULTILINE)
    reading, _, notes = header.partition("-- columns:\n")
    columns = [column.name for column in table.columns if f"--   {column.name}: " not in notes]
    if {"model", "recipe"} <= set(table.key):
        columns.insert(columns.index("recipe") + 1, "model || '@' || recipe as variant")
        notes = f"--   variant: Name of the variant = model || '@' || recipe\n{notes}"
    explained = f"-- columns:\n{notes}" if notes else ""
    selected, body = ",\n    ".join(columns), body.strip()
    separator = "\n" if body.startswith("from ") else ",\n    "
    return f"""\
-- The table {table.name} as other views read it: every stored column, and any computed from a single row.
-- grain: {table.grain[0].lower()}{table.grain[1:]}
-- key: {", ".join(table.key)}
-- inputs: {table.name}
{reading}-- reason: other views read all tables in one form, with the columns that need no other row.
{explained}select
    {selected}{separator}{body}"""
