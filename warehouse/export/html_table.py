"""HTML page of a printed table, by great-tables, without scripts or external resources.

great-tables escapes the text of cells.
"""

import polars as pl
from great_tables import GT, loc, style

from prunescope.warehouse.export.best_marks import BestMark
from prunescope.warehouse.export.table_cells import RenderedTable


def to_html(table: RenderedTable) -> str:
    """Return a page with the table; the same table gives the same bytes."""
    # Columns are numbered because two may have the same heading.
    columns = {f"column_{number}": column for number, column in enumerate(table.columns)}
    texts = {key: [cell.text for cell in column.cells] for key, column in columns.items()}
    frame = pl.DataFrame(texts, schema=dict.fromkeys(columns, pl.String))
    page = GT(frame, id="table").tab_header(title=table.caption)
    page = page.cols_label({key: column.heading for key, column in columns.items()})
    numbers = [key for key, column in columns.items() if column.is_number]
    page = page.cols_align("left", [key for key in columns if key not in numbers]).cols_align("right", numbers)
    for mark, text_style in (
        (BestMark.BEST, style.text(weight="bold")),
        (BestMark.SECOND, style.text(decorate="underline")),
    ):
        for key, column in columns.items():
            if marked := [index for index, cell in enumerate(column.cells) if cell.mark is mark]:
                page = page.tab_style(text_style, loc.body(columns=key, rows=marked))
    for note in table.notes:
        page = page.tab_source_note(note)
    head = f'<head><meta charset="utf-8"><title>{table.name}</title></head>'
    return f'<!DOCTYPE html>\n<html lang="en">\n{head}\n<body>\n{page.as_raw_html()}\n</body>\n</html>\n'
