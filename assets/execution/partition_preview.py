"""What people are shown of a partition: a few of its rows, what made it, and the command that asks for it.

Texts only, small enough for the UI to print them in place; no Dagster.
"""

import re
import shlex

import polars as pl

from prunescope.warehouse.core.formats import markdown_escaped, render
from prunescope.warehouse.core.quoting import literal
from prunescope.warehouse.schema.table import Table
from prunescope.warehouse.storage.provenance import Provenance

# Markdown of a thousand characters or more is hidden behind a link.
MOST_CHARACTERS = 999
_ROWS = 8
_CELL = 40
_HASH = 12


def preview(table: Table, rows: pl.DataFrame) -> str:
    """Rows spread evenly over a partition, as a Markdown table of the key and the columns that say most.

    A column of the key that is the same in all rows, as model and recipe are, is left out.
    """
    key = [name for name in table.key if rows.height and (rows[name] != rows[name][0]).any()]
    names = [*key, *table.preview_columns]
    for wanted in range(min(_ROWS, rows.height), 0, -1):
        places = [place * (rows.height - 1) // max(wanted - 1, 1) for place in range(wanted)]
        some = rows.select(names)[places].with_columns(pl.col(pl.Categorical).cast(pl.String))
        some = some.with_columns(pl.col(pl.String).str.head(_CELL))
        # As text it is padded to columns, which a browser does again.
        text = re.sub("-{3,}", "---", re.sub(" {2,}", " ", str(render(some.to_arrow(), "markdown"))))
        if len(text) <= MOST_CHARACTERS:
            return text
    return ""


def origin(provenance: Provenance, source: str) -> str:
    """What made a partition, as a Markdown table; hashes by their beginnings, the whole ones are in `provenance`.

    Args:
        provenance: as it stands in the file's footer.
        source: where the model came from, its revision included.
    """
    told = {
        "model": source,
        "study": provenance.study,
        **{name.replace("_", " "): short(text) for name, text in provenance.inputs.items() if name != "dtype"},
        "seed": str(provenance.seed),
        "dtype, device": f"{provenance.dtype}, {provenance.device}",
        **provenance.libraries,
        "made": provenance.created_at,
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {k} | {markdown_escaped(v)} |" for k, v in told.items())])


def short(text: str) -> str:
    """The beginning of a hash, which tells it from others; whatever else stays."""
    return text[:_HASH] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text


def command(table: str, model: str, recipe: str | None, root: str) -> str:
    """The command line that shows a partition, as Markdown; names are partition keys, which need no escape."""
    where = f"model = {literal(model)}" + (f"\n    and recipe = {literal(recipe)}" if recipe else "")
    # Lines as short as they get, for what is wider than the page has to be scrolled.
    return f'```sh\nprunescope sql --warehouse {shlex.quote(root)} "\n  from {table}\n  where {where}"\n```'
