"""LaTeX of a printed table, with booktabs, that fits the page for any number of columns and rows.

A table that is too wide is set in small type with broken headings, names columns of one value in a note, and is split
into parts that repeat the key columns; one that is too long continues on further pages.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from prunescope.warehouse.core.latex import head, latex_escaped, row, tabular
from prunescope.warehouse.core.quoting import escape_control
from prunescope.warehouse.export.best_marks import BestMark
from prunescope.warehouse.export.rounding import Number
from prunescope.warehouse.export.table_cells import Cell, RenderedTable, number_text

# LaTeX's class article at 10 pt has text of 345 pt by 43 lines of \footnotesize, caption and notes included.
_WIDTH = 340.0
_HEIGHT = 40
# Characters of a line in a longer text, and in a heading.
_PARAGRAPH, _HEADING = 28, 12
# Characters of a name without blanks after which a line may end.
_WORD = 14
# Share of the width that repeated key columns may take; with wider ones the rows are numbered instead.
_MAX_KEY = 0.6


@dataclass(frozen=True)
class _Type:
    """A type size: points of a character and between two columns, and the commands that select it."""

    character: float
    gap: float
    commands: tuple[str, ...] = ()


_NORMAL = _Type(4.8, 12.0)
_SMALL = _Type(4.2, 6.0, (r"\footnotesize", r"\setlength{\tabcolsep}{3pt}"))


@dataclass(frozen=True)
class _Column:
    """One column in LaTeX, with the characters of its widest line and the number of lines of each cell."""

    letter: str
    heading: tuple[str, ...]
    cells: tuple[str, ...]
    characters: int
    lines: tuple[int, ...]


def to_latex(table: RenderedTable) -> str:
    """Return the table with caption and label; its first line names the packages that it needs."""
    type_, parts = _NORMAL, [_columns(table, is_broken=False)]
    if _points(parts[0], _NORMAL) > _WIDTH:
        table = _without_constants(table)
        type_, parts = _SMALL, _parts(table, _columns(table, is_broken=True))
    layout = _float if sum(map(_height, parts)) <= _HEIGHT else _pages
    return "\n".join([*layout(table, type_, parts), ""])


def _without_constants(table: RenderedTable) -> RenderedTable:
    """Replace columns that have one value in all rows by a note."""
    indices = range(len(table.headings))
    varying = [index for index in indices if len({cells[index].content for cells in table.rows}) > 1]
    constants = [f"{table.headings[index]}: {_text(table.rows[0][index])}" for index in indices if index not in varying]
    if not varying or not constants:
        return table
    return replace(
        table,
        headings=tuple(table.headings[index] for index in varying),
        is_number=tuple(table.is_number[index] for index in varying),
        rows=tuple(tuple(cells[index] for index in varying) for cells in table.rows),
        key=frozenset(new for new, index in enumerate(varying) if index in table.key),
        notes=(*table.notes, f"In all rows: {'; '.join(constants)}."),
    )


def _columns(table: RenderedTable, *, is_broken: bool) -> list[_Column]:
    return [_column(table, index, is_broken=is_broken) for index in range(len(table.headings))]


def _column(table: RenderedTable, index: int, *, is_broken: bool) -> _Column:
    contents = [cells[index] for cells in table.rows]
    lengths = [_characters(cell) for cell in contents]
    widest = max(lengths, default=0)
    is_paragraph = is_broken and not table.is_number[index] and widest > _PARAGRAPH
    body = min(widest, _PARAGRAPH) if is_paragraph else widest
    heading = _lines(table.headings[index], max(_HEADING, body)) if is_broken else (table.headings[index],)
    return _Column(
        letter="r"
        if table.is_number[index]
        else f"p{{{_PARAGRAPH * _SMALL.character:.0f}pt}}"
        if is_paragraph
        else "l",
        heading=tuple(map(latex_escaped, heading)),
        cells=tuple(_paragraph(cell) if is_paragraph else _cell(cell) for cell in contents),
        characters=max(_PARAGRAPH if is_paragraph else body, *map(len, heading)),
        lines=tuple(-(-length // _PARAGRAPH) if is_paragraph else 1 for length in lengths),
    )


def _parts(table: RenderedTable, columns: Sequence[_Column]) -> list[list[_Column]]:
    """Split the columns into parts that fit the width, each with the key columns or the numbers of the rows."""
    if _points(columns, _SMALL) <= _WIDTH:
        return [list(columns)]
    repeated = [columns[index] for index in sorted(table.key)]
    others = [column for index, column in enumerate(columns) if index not in table.key]
    if len(table.rows) == 1:  # a single row needs no key
        repeated, others = [], list(columns)
    elif not repeated or _points(repeated, _SMALL) > _MAX_KEY * _WIDTH:
        cells = tuple(str(number) for number, _ in enumerate(table.rows, start=1))
        numbers = _Column("r", ("row",), cells, max(3, len(str(len(cells)))), (1,) * len(cells))
        repeated, others = [numbers], list(columns)
    parts = [list(repeated)]
    for column in others:
        if _points([*parts[-1], column], _SMALL) > _WIDTH and len(parts[-1]) > len(repeated):
            parts.append(list(repeated))
        parts[-1].append(column)
    return parts


def _points(columns: Sequence[_Column], type_: _Type) -> float:
    return sum(column.characters * type_.character + type_.gap for column in columns)


def _height(part: Sequence[_Column]) -> int:
    """Return the height in lines."""
    rows: list[int] = [max(lines) for lines in zip(*(column.lines for column in part), strict=True)]
    return sum(rows) + max(len(column.heading) for column in part) + 2


def _float(table: RenderedTable, type_: _Type, parts: Sequence[Sequence[_Column]]) -> list[str]:
    lines = []
    for part in parts:
        lines += [r"\par\medskip", *tabular(_letters(part), map(_heading, part), _body(table, part))]
    return [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        *_caption(table),
        *type_.commands,
        *lines[1:],
        *_notes(table),
        r"\end{table}",
    ]


def _pages(table: RenderedTable, type_: _Type, parts: Sequence[Sequence[_Column]]) -> list[str]:
    lines = ["% needs \\usepackage{booktabs,longtable}", r"\begingroup", *type_.commands]
    for number, part in enumerate(parts, start=1):
        # All parts are one table with one number.
        caption, label = _caption(table)
        if number > 1:
            lines.append(r"\addtocounter{table}{-1}")
            caption, label = rf"\caption[]{{{latex_escaped(table.caption)} (part {number} of {len(parts)})}}", ""
        headings = head(map(_heading, part))
        lines += [rf"\begin{{longtable}}{{{_letters(part)}}}", rf"{caption}{label} \\", *headings, r"\endfirsthead"]
        lines += [*headings, r"\endhead", r"\bottomrule", r"\endfoot", *_body(table, part), r"\end{longtable}"]
    return [*lines, *_notes(table), r"\endgroup"]


def _caption(table: RenderedTable) -> tuple[str, str]:
    label = re.sub("[^a-zA-Z0-9]+", "-", table.name)
    return rf"\caption{{{latex_escaped(table.caption)}}}", rf"\label{{tab:{label}}}"


def _notes(table: RenderedTable) -> Iterator[str]:
    for note in table.notes:
        # Names of columns are long, and TeX does not break them by itself.
        text = latex_escaped(note).replace(r"\_", r"\_\allowbreak{}")
        yield rf"\par\smallskip{{\footnotesize\sloppy {text}\par}}"


def _letters(part: Sequence[_Column]) -> str:
    return "".join(column.letter for column in part)


def _heading(column: _Column) -> str:
    if len(column.heading) == 1:
        return column.heading[0]
    stacked = r" \\ ".join(column.heading)
    return rf"\shortstack[{'r' if column.letter == 'r' else 'l'}]{{{stacked}}}"


def _body(table: RenderedTable, part: Sequence[_Column]) -> Iterator[str]:
    for index in range(len(table.rows)):
        if index in table.breaks:
            yield r"\midrule"
        yield row(column.cells[index] for column in part)


def _lines(heading: str, width: int) -> tuple[str, ...]:
    """Break the heading after blanks and underscores into lines of about `width` characters."""
    lines = [""]
    for word in re.findall(r"[^ _]+[ _]*|[ _]+", heading):
        if lines[-1] and len(lines[-1]) + len(word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return tuple(line.strip() for line in lines)


def _text(cell: Cell) -> str:
    return number_text(cell.content) if isinstance(cell.content, Number) else escape_control(cell.content, "\n\t")


def _characters(cell: Cell) -> int:
    length: int = sum(map(_length, _text(cell)))
    return length * 7 // 6 + 1 if cell.mark is BestMark.BEST else length


def _length(letter: str) -> int:
    """Return the characters that a letter takes: one that the fonts lack is written as its number."""
    return len("[U+1F600]") if latex_escaped(letter).startswith("{[}U+") else 1


def _cell(cell: Cell) -> str:
    text = (
        _number(cell.content)
        if isinstance(cell.content, Number)
        else latex_escaped(escape_control(cell.content, "\n\t"))
    )
    match cell.mark:
        case BestMark.BEST:
            return rf"\textbf{{\boldmath {text}}}"
        case BestMark.SECOND:
            return rf"\underline{{{text}}}"
        case _:
            return text


def _paragraph(cell: Cell) -> str:
    """Return a cell of text in which lines may also end within long names."""
    words = escape_control(str(cell.content), "\n\t").split()
    text = " ".join(r"\allowbreak{}".join(map(latex_escaped, _pieces(word))) for word in words)
    return rf"{{\raggedright {text}\par}}"


def _pieces(word: str) -> list[str]:
    pieces, length = [""], 0
    for letter in word:
        if length >= _WORD:
            pieces.append("")
            length = 0
        pieces[-1] += letter
        length += _length(letter)
    return pieces


def _number(number: Number) -> str:
    if number.value == "NaN":
        return "NaN"
    text = number.value
    if number.error:
        text += rf" \pm {number.error}".replace("NaN", r"\mathrm{NaN}")
    if number.interval:
        text += r"\;[" + r",\,".join(number.interval) + "]"
    if number.exponent:
        text = f"({text})" if number.error or number.interval else text
        text += rf" \times 10^{{{number.exponent}}}"
    return f"${text}$".replace("inf", r"\infty")
