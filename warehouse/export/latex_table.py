"""LaTeX of a printed table, with booktabs, that fits the page for any number of columns and rows.

It fits articles with one column and with two, in which only a small table stays within one column. A table that is too
wide is set in small type with broken headings. Columns with one value move into a note. What is still too wide is split
into parts that repeat the key columns. A table that is too long continues in further floats.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from prunescope.warehouse.core.latex import latex_escaped, row, tabular
from prunescope.warehouse.core.quoting import escape_control
from prunescope.warehouse.export.best_marks import BestMark
from prunescope.warehouse.export.rounding import Number
from prunescope.warehouse.export.table_cells import Cell, RenderedTable, number_text

# LaTeX's class article at 10 pt has text of 345 pt by 45 lines; with two columns, 470 pt and 229 pt per column. The
# classes of conferences have at least 450 pt. With two columns `table*` spans both, and `longtable` is impossible.
_WIDTH = 340.0
_COLUMN, _COLUMN_ROWS = 215.0, 20
# Minimum number of lines for rows, however long the notes are.
_MIN_HEIGHT = 12
# Characters per line of caption or notes.
_LINE = 80
# LaTeX holds at least 18 floats that wait for a page.
_MAX_WAITING = 12
# Characters per line in a longer text, and in a heading.
_PARAGRAPH, _HEADING = 28, 12
# Number of characters of a name without blanks after which a line may end.
_WORD = 14
# Share of the width that repeated key columns may take. If they are wider, the rows are numbered instead.
_MAX_KEY = 0.6


@dataclass(frozen=True)
class _Type:
    """Type size: points per character and between two columns, lines per page, and the commands that select it.

    The lines do not include the first line of the caption.
    """

    character: float
    gap: float
    lines: int
    commands: tuple[str, ...] = ()


_NORMAL = _Type(4.8, 12.0, 38)
_SMALL = _Type(4.2, 6.0, 46, (r"\footnotesize", r"\setlength{\tabcolsep}{3pt}"))


@dataclass(frozen=True)
class _Column:
    """One column in LaTeX, with the characters of its widest line and the number of lines of each cell."""

    letter: str
    heading: tuple[str, ...]
    cells: tuple[str, ...]
    characters: int
    lines: tuple[int, ...]


@dataclass(frozen=True)
class _Block:
    """Rows from `start` to before `stop` of some columns."""

    part: Sequence[_Column]
    start: int
    stop: int


def to_latex(table: RenderedTable) -> str:
    """Return the table with caption and label; its first line names the packages that it needs."""
    type_, parts = _NORMAL, [_columns(table, is_broken=False)]
    if _points(parts[0], _NORMAL) > _WIDTH:
        table = _without_constants(table)
        type_, parts = _SMALL, _parts(table, _columns(table, is_broken=True))
    floats = _floats(table, type_, parts)
    is_narrow = len(floats) == 1 and _points(parts[0], type_) <= _COLUMN and len(table.rows) <= _COLUMN_ROWS
    lines = ["% needs \\usepackage{booktabs}"]
    for number, blocks in enumerate(floats, start=1):
        lines += _float(table, type_, blocks, number, len(floats), "table" if is_narrow else "table*")
    return "\n".join([*lines, ""])


def _without_constants(table: RenderedTable) -> RenderedTable:
    """Replace columns that have the same value in all rows by a note."""
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


def _floats(table: RenderedTable, type_: _Type, parts: Sequence[Sequence[_Column]]) -> list[list[_Block]]:
    """Distribute the rows of the parts over floats that are no higher than a page."""
    notes = sum(2 + len(note) // _LINE for note in table.notes)
    budget = max(_MIN_HEIGHT, type_.lines - len(table.caption) // _LINE - notes)
    floats: list[list[_Block]] = [[]]
    used = 0
    for part in parts:
        heading = max(len(column.heading) for column in part) + 2
        heights = [max(lines) for lines in zip(*(column.lines for column in part), strict=True)]
        start = 0
        # A part that fits one page starts on a new page instead of being cut.
        if floats[-1] and used + heading + sum(heights) > budget:
            floats.append([])
            used = 0
        used += heading
        for index, height in enumerate(heights):
            if used + height > budget and index > start:
                floats[-1].append(_Block(part, start, index))
                floats.append([])
                start, used = index, heading
            used += height
        floats[-1].append(_Block(part, start, len(heights)))
    return floats


def _float(
    table: RenderedTable, type_: _Type, blocks: Sequence[_Block], number: int, count: int, environment: str
) -> Iterator[str]:
    """Return one float; all floats of a table have one number."""
    yield rf"\begin{{{environment}}}[tp]"
    yield r"\centering"
    caption, label = _caption(table)
    if number == 1:
        yield from (caption, label)
    else:
        yield r"\addtocounter{table}{-1}"
        yield rf"\caption[]{{{latex_escaped(table.caption)} (part {number} of {count})}}"
    yield from type_.commands
    for index, block in enumerate(blocks):
        if index:
            yield r"\par\medskip"
        letters = "".join(column.letter for column in block.part)
        yield from tabular(letters, map(_heading, block.part), _body(table, block))
    if number == count:
        yield from _notes(table)
    yield rf"\end{{{environment}}}"
    if number % _MAX_WAITING == 0:
        yield r"\clearpage"


def _caption(table: RenderedTable) -> tuple[str, str]:
    label = re.sub("[^a-zA-Z0-9]+", "-", table.name)
    return rf"\caption{{{latex_escaped(table.caption)}}}", rf"\label{{tab:{label}}}"


def _notes(table: RenderedTable) -> Iterator[str]:
    for note in table.notes:
        # Names of columns are long, and TeX does not break them by itself.
        text = latex_escaped(note).replace(r"\_", r"\_\allowbreak{}")
        yield rf"\par\smallskip{{\footnotesize\sloppy {text}\par}}"


def _heading(column: _Column) -> str:
    if len(column.heading) == 1:
        return column.heading[0]
    stacked = r" \\ ".join(column.heading)
    return rf"\shortstack[{'r' if column.letter == 'r' else 'l'}]{{{stacked}}}"


def _body(table: RenderedTable, block: _Block) -> Iterator[str]:
    for index in range(block.start, block.stop):
        if index in table.breaks and index > block.start:
            yield r"\midrule"
        yield row(column.cells[index] for column in block.part)


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
    """Return the width of a letter in characters; a letter that the fonts do not have is written as its code."""
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
    """Return a text cell in which lines may also end within long names."""
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
