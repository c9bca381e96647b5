"""A printed table as one HTML page, by great-tables.

It loads nothing from anywhere and runs no script; names from users are escaped by the library.
"""

import polars as pl
from great_tables import GT, loc, style

from prunescope.warehouse.core.quoting import visible
from prunescope.warehouse.export.best_marks import BestMark
from prunescope.warehouse.export.rounding import Number
from prunescope.warehouse.export.table_cells import Cell, RenderedTable, number_text


def to_html(table: RenderedTable) -> str:
    """A page with the table; the same table gives the same bytes."""
    # Columns are numbered, because a heading may come twice and is shown as a label anyway.
    keys = [f"column_{number}" for number, _ in enumerate(table.headings)]
    texts = {key: [_text(row[at]) for row in table.rows] for at, key in enumerate(keys)}
    frame = pl.DataFrame(texts, schema=dict.fromkeys(keys, pl.String))
    page = (
        GT(frame, id="table").tab_header(title=table.caption).cols_label(dict(zip(keys, table.headings, strict=True)))
    )
    numbers = [key for key, number in zip(keys, table.is_number, strict=True) if number]
    page = page.cols_align("left", [key for key in keys if key not in numbers]).cols_align("right", numbers)
    for mark, look in ((BestMark.BEST, style.text(weight="bold")), (BestMark.SECOND, style.text(decorate="underline"))):
        for at, key in enumerate(keys):
            marked = [index for index, row in enumerate(table.rows) if row[at].mark is mark]
            if marked:
                page = page.tab_style(look, loc.body(columns=key, rows=marked))
    for note in table.notes:
        page = page.tab_source_note(note)
    head = f'<head><meta charset="utf-8"><title>{table.name}</title></head>'
    return f'<!DOCTYPE html>\n<html lang="en">\n{head}\n<body>\n{page.as_raw_html()}\n</body>\n</html>\n'


def _text(cell: Cell) -> str:
    return number_text(cell.content) if isinstance(cell.content, Number) else visible(cell.content, "\n")
