"""LaTeX of a printed table, with booktabs, that fits the page for any number of columns and rows.

It fits an article in one column and in two, where it spans both unless it is small. A table that is too wide gets
broken headings, names columns of one value in a note, and is split into parts that repeat the key columns. Each part is
a float of its own, and a part that is too long continues in further floats.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from operator import not_

from prunescope.warehouse.core.latex import latex_escaped, row, tabular
from prunescope.warehouse.export.best_marks import BestMark
from prunescope.warehouse.export.table_cells import Cell, RenderedColumn, RenderedTable

# Text of the class article at 10 pt is 345 pt wide, and 470 pt in two columns of 229 pt; the classes of conferences
# have at least 450 pt. A character of \footnotesize takes 4.2 pt, and the gap between two columns 6 pt. In two columns
# `table*` spans both, and `longtable` is impossible.
_WIDTH, _COLUMN_WIDTH, _GAP = 81.0, 51.0, 1.5
# Lines of \footnotesize on a page below the first line of the caption, in a table of one column, and below long notes.
_LINES, _COLUMN_ROWS, _MIN_LINES = 46, 20, 12
# Characters of a line of caption or notes, of a paragraph in a cell, of a heading, and of a part of a longer name.
_LINE, _PARAGRAPH, _HEADING, _WORD = 80, 28, 12, 14
# LaTeX holds at least 18 floats that wait for a page.
_MAX_WAITING = 12
# Share of the width that repeated key columns may take; with wider ones the rows are numbered instead.
_MAX_KEY = 0.6


@dataclass(frozen=True)
class _Column:
    """One column in LaTeX: its width in characters, and the lines of its heading and of each cell."""

    letter: str
    heading: str
    heading_lines: int
    cells: tuple[str, ...]
    width: float
    lines: tuple[int, ...]


def to_latex(table: RenderedTable) -> str:
    """Return the table with caption and label; its first line names the package that it needs."""
    parts = [[_column(column, is_broken=False) for column in table.columns]]
    if _width(parts[0]) > _WIDTH:
        table = _without_constants(table)
        parts = _parts(table)
    floats = [(part, rows) for part in parts for rows in _pages(part, table)]
    is_narrow = len(floats) == 1 and _width(parts[0]) <= _COLUMN_WIDTH and len(table.rows) <= _COLUMN_ROWS
    lines = ["% needs \\usepackage{booktabs}"]
    for number, (part, rows) in enumerate(floats, start=1):
        lines += _float(table, part, rows, (number, len(floats)), "table" if is_narrow else "table*")
    return "\n".join([*lines, ""])


def _without_constants(table: RenderedTable) -> RenderedTable:
    """Replace columns that have the same value in all rows by a note."""
    is_varying = [len({cell.text for cell in column.cells}) > 1 for column in table.columns]
    if not any(is_varying) or all(is_varying):
        return table
    constants = compress(table.columns, map(not_, is_varying))
    note = f"In all rows: {'; '.join(f'{column.heading}: {column.cells[0].text}' for column in constants)}."
    return replace(table, columns=tuple(compress(table.columns, is_varying)), notes=(*table.notes, note))


def _column(column: RenderedColumn, *, is_broken: bool) -> _Column:
    lengths = list(map(_characters, column.cells))
    body = max(lengths, default=0)
    is_paragraph = is_broken and not column.is_number and body > _PARAGRAPH
    body = _PARAGRAPH if is_paragraph else body
    lines = _heading_lines(column.heading, max(_HEADING, body)) if is_broken else [column.heading]
    stacked = r" \\ ".join(map(latex_escaped, lines))
    side = "r" if column.is_number else "l"
    return _Column(
        letter=f"p{{{_PARAGRAPH * 4.2:.0f}pt}}" if is_paragraph else side,
        heading=stacked if len(lines) == 1 else rf"\shortstack[{side}]{{{stacked}}}",
        heading_lines=len(lines),
        cells=tuple(map(_paragraph if is_paragraph else _cell, column.cells)),
        width=max(body, *map(len, lines)) + _GAP,
        lines=tuple(-(-length // _PARAGRAPH) if is_paragraph else 1 for length in lengths),
    )


def _parts(table: RenderedTable) -> list[list[_Column]]:
    """Split the columns into parts that fit the width, each with the key columns or the numbers of the rows."""
    columns = [_column(column, is_broken=True) for column in table.columns]
    if _width(columns) <= _WIDTH:
        return [columns]
    is_key = [column.is_key for column in table.columns]
    repeated, others = list(compress(columns, is_key)), list(compress(columns, map(not_, is_key)))
    count = len(table.rows)
    if count == 1:  # a single row needs no key
        repeated, others = [], columns
    elif not repeated or _width(repeated) > _MAX_KEY * _WIDTH:
        cells = tuple(str(number + 1) for number in range(count))
        repeated, others = [_Column("r", "row", 1, cells, len(str(count)) + 3, (1,) * count)], columns
    parts = [[*repeated]]
    for column in others:
        if _width([*parts[-1], column]) > _WIDTH and len(parts[-1]) > len(repeated):
            parts.append([*repeated])
        parts[-1].append(column)
    return parts


def _width(columns: Sequence[_Column]) -> float:
    return sum(column.width for column in columns)


def _pages(part: Sequence[_Column], table: RenderedTable) -> Iterator[range]:
    """Split the rows of a part into floats that are not higher than a page."""
    texts = len(table.caption) // _LINE + sum(2 + len(note) // _LINE for note in table.notes)
    budget = max(_MIN_LINES, _LINES - texts) - max(column.heading_lines for column in part) - 2
    start = used = 0
    for index, lines in enumerate(zip(*(column.lines for column in part), strict=True)):
        if used + max(lines) > budget and index > start:
            yield range(start, index)
            start, used = index, 0
        used += max(lines)
    yield range(start, len(table.rows))


def _float(
    table: RenderedTable, part: Sequence[_Column], rows: range, number_of: tuple[int, int], environment: str
) -> Iterator[str]:
    """Return one float; all floats of a table have one number."""
    number, count = number_of
    caption, label = latex_escaped(table.caption), re.sub("[^a-zA-Z0-9]+", "-", table.name)
    yield rf"\begin{{{environment}}}[tp]"
    yield r"\centering"
    if number == 1:
        yield rf"\caption{{{caption}}}"
        yield rf"\label{{tab:{label}}}"
    else:
        yield r"\addtocounter{table}{-1}"
        yield rf"\caption[]{{{caption} (part {number} of {count})}}"
    yield r"\footnotesize"
    yield r"\setlength{\tabcolsep}{3pt}"
    body = []
    for index in rows:
        body += [r"\midrule"] if index in table.breaks and index > rows.start else []
        body.append(row(column.cells[index] for column in part))
    yield from tabular("".join(column.letter for column in part), (column.heading for column in part), body)
    for note in table.notes if number == count else ():
        # Names of columns are long, and TeX does not break them by itself.
        text = latex_escaped(note).replace(r"\_", r"\_\allowbreak{}")
        yield rf"\par\smallskip{{\footnotesize\sloppy {text}\par}}"
    yield rf"\end{{{environment}}}"
    if number % _MAX_WAITING == 0:
        yield r"\clearpage"


def _heading_lines(heading: str, width: int) -> list[str]:
    """Break the heading after blanks and underscores into lines of about `width` characters."""
    lines = [""]
    for word in re.findall(r"[^ _]+[ _]*|[ _]+", heading):
        if lines[-1] and len(lines[-1]) + len(word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return [line.strip() for line in lines]


def _characters(cell: Cell) -> int:
    """Return the width of a cell in characters; a letter that the fonts do not have is written as its code."""
    length = sum(len("[U+1F600]") if latex_escaped(letter).startswith("{[}U+") else 1 for letter in cell.text)
    return length * 7 // 6 + 1 if cell.mark is BestMark.BEST else length


def _cell(cell: Cell) -> str:
    form = {BestMark.BEST: r"\textbf{{\boldmath {}}}", BestMark.SECOND: r"\underline{{{}}}"}.get(cell.mark, "{}")
    return form.format(latex_escaped(cell.text))


def _paragraph(cell: Cell) -> str:
    """Return a cell of text in which lines may also end within long names."""
    words = (re.findall(f".{{1,{_WORD}}}", word) for word in cell.text.split())
    text = " ".join(r"\allowbreak{}".join(map(latex_escaped, pieces)) for pieces in words)
    text = text.replace("{]}{[}U+", r"{]}\allowbreak{}{[}U+")  # letters that the fonts lack
    return rf"{{\raggedright {text}\par}}"
