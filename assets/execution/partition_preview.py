"""What the UI shows about a partition: some rows and the command that queries them, as Markdown, and its origin."""

import re
import shlex
from dataclasses import asdict
from typing import Any

import polars as pl

from prunescope.warehouse.core.formats import render
from prunescope.warehouse.core.quoting import literal
from prunescope.warehouse.schema.table import Table
from prunescope.warehouse.storage.provenance import Provenance

# The UI hides Markdown of a thousand characters or more behind a link.
MAX_CHARACTERS = 999
_ROWS = 8
_CELL = 40


def preview(table: Table, rows: pl.DataFrame) -> str:
    """Return evenly spaced rows of a partition as a Markdown table of the key and the table's preview columns.

    Key columns with one value, such as model and recipe, are left out.
    """
    key = [name for name in table.key if rows.height and (rows[name] != rows[name][0]).any()]
    names = [*key, *table.preview_columns]
    for count in range(min(_ROWS, rows.height), 0, -1):
        indices = [index * (rows.height - 1) // max(count - 1, 1) for index in range(count)]
        sample = rows.select(names)[indices].with_columns(pl.col(pl.Categorical).cast(pl.String))
        sample = sample.with_columns(pl.col(pl.String).str.head(_CELL))
        # The padding to columns would count as characters, and the browser aligns the table itself.
        text = re.sub("-{3,}", "---", re.sub(" {2,}", " ", str(render(sample.to_arrow(), "markdown"))))
        if len(text) <= MAX_CHARACTERS:
            return text
    return ""


def made_from(provenance: Provenance, source: str) -> dict[str, Any]:
    """Return the provenance in the footer of a partition, and the source of its model, including its revision."""
    return {"source": source} | asdict(provenance)


def command(table: str, model: str, recipe: str | None, root: str) -> str:
    """Return the command that queries a partition, as Markdown; partition keys need no escaping."""
    where = f"model = {literal(model)}" + (f"\n    and recipe = {literal(recipe)}" if recipe else "")
    # In short lines, because the UI scrolls wide ones.
    return f'```sh\nprunescope sql --warehouse {shlex.quote(root)} "\n  from {table}\n  where {where}"\n```'
