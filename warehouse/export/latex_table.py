"""A printed table as LaTeX with booktabs that stays on the page, however many columns and rows it has.

One that fits is set as it is; a wider one in small type, its headings broken, what is the same in all rows in a note,
and its columns in parts that repeat the key; a longer one over several pages. The cells are decided in `typeset`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from prunescope.warehouse.core.quoting import visible
from prunescope.warehouse.export.best_marks import BestMark
from prunescope.warehouse.export.latex_escape import latex
from prunescope.warehouse.export.rounding import Number
from prunescope.warehouse.export.table_cells import Cell, RenderedTable, number_text

# The text of LaTeX's class article at 10 pt is 345 pt wide and 43 lines of \footnotesize with caption and notes high.
_WIDTH = 340.0
_HEIGHT = 40
# A longer text is broken into lines of so many characters, a heading into shorter ones.
_PARAGRAPH, _HEADING = 28, 12
# Characters of a name without blanks behind which a line may end.
_WORD = 14
# What a repeated key may take of the width; rows are numbered where it takes more.
_MOST_KEY = 0.6


@dataclass(frozen=True)
class _Type:
    """A size of type: points a character and between two columns, and the commands that choose it."""

    character: float
    gap: float
    commands: tuple[str, ...] = ()


_NORMAL = _Type(4.8, 12.0)
_SMALL = _Type(4.2, 6.0, (r"\footnotesize", r"\setlength{\tabcolsep}{3pt}"))


@dataclass(frozen=True)
class _Column:
    """One column: its heading in lines, its cells, and what they take in characters.

    Attributes:
        letter: how it is aligned.
        heading: lines.
        cells: in LaTeX.
        characters: of its widest line.
        lines: of each cell.
    """

    letter: str
    heading: tuple[str, ...]
    cells: tuple[str, ...]
    characters: int
    lines: tuple[int, ...]


def to_latex(table: RenderedTable) -> str:
    """A table with caption and label; says in its first line which packages it needs."""
    whole = [_column(table, at, is_broken=False) for at in range(len(table.headings))]
    type_, parts = _NORMAL, [whole]
    if _points(whole, _NORMAL) > _WIDTH:
        table = _without_constants(table)
        type_, parts = _SMALL, _parts(table, [_column(table, at, is_broken=True) for at in range(len(table.headings))])
    height = sum(map(_height, parts))
    lines = _float(table, type_, parts) if height <= _HEIGHT else _pages(table, type_, parts)
    return "\n".join([*lines, ""])


def _without_constants(table: RenderedTable) -> RenderedTable:
    """The table with a note in the place of columns that have one value in all rows."""
    varying = [at for at in range(len(table.headings)) if len({row[at].content for row in table.rows}) > 1]
    if not varying:
        return table
    constants = [at for at in range(len(table.headings)) if at not in varying]
    told = "; ".join(f"{table.headings[at]}: {_text(table.rows[0][at])}" for at in constants)
    return replace(
        table,
        headings=tuple(table.headings[at] for at in varying),
        is_number=tuple(table.is_number[at] for at in varying),
        rows=tuple(tuple(row[at] for at in varying) for row in table.rows),
        key=frozenset(place for place, at in enumerate(varying) if at in table.key),
        notes=(*table.notes, f"In all rows: {told}.") if constants else table.notes,
    )


def _column(table: RenderedTable, at: int, *, is_broken: bool) -> _Column:
    contents = [row[at] for row in table.rows]
    lengths = [_characters(cell) for cell in contents]
    widest = max(lengths, default=0)
    is_paragraph = is_broken and not table.is_number[at] and widest > _PARAGRAPH
    body = min(widest, _PARAGRAPH) if is_paragraph else widest
    heading = _lines(table.headings[at], max(_HEADING, body)) if is_broken else (table.headings[at],)
    return _Column(
        letter="r" if table.is_number[at] else f"p{{{_PARAGRAPH * _SMALL.character:.0f}pt}}" if is_paragraph else "l",
        heading=tuple(map(latex, heading)),
        cells=tuple(_paragraph(cell) if is_paragraph else _cell(cell) for cell in contents),
        characters=max(_PARAGRAPH if is_paragraph else body, *map(len, heading)),
        lines=tuple(-(-length // _PARAGRAPH) if is_paragraph else 1 for length in lengths),
    )


def _parts(table: RenderedTable, columns: Sequence[_Column]) -> list[list[_Column]]:
    """The columns in parts that fit, each after the first with the key columns that tell its rows apart."""
    if _points(columns, _SMALL) <= _WIDTH:
        return [list(columns)]
    repeated = [columns[at] for at in sorted(table.key)]
    rest = [column for at, column in enumerate(columns) if at not in table.key]
    if len(table.rows) == 1:  # nothing to tell apart
        repeated, rest = [], list(columns)
    elif not repeated or _points(repeated, _SMALL) > _MOST_KEY * _WIDTH:
        cells = tuple(str(number) for number, _ in enumerate(table.rows, start=1))
        repeated, rest = [_Column("r", ("row",), cells, max(3, len(str(len(cells)))), (1,) * len(cells))], list(columns)
    parts = [list(repeated)]
    for column in rest:
        if _points([*parts[-1], column], _SMALL) > _WIDTH and len(parts[-1]) > len(repeated):
            parts.append(list(repeated))
        parts[-1].append(column)
    return parts


def _points(columns: Sequence[_Column], type_: _Type) -> float:
    return sum(column.characters * type_.character + type_.gap for column in columns)


def _height(part: Sequence[_Column]) -> int:
    """Lines of type."""
    rows: list[int] = [max(lines) for lines in zip(*(column.lines for column in part), strict=True)]
    return sum(rows) + max(len(column.heading) for column in part) + 2


def _float(table: RenderedTable, type_: _Type, parts: Sequence[Sequence[_Column]]) -> list[str]:
    tabulars = [
        [rf"\begin{{tabular}}{{{_letters(part)}}}", *_head(part), *_body(table, part), r"\bottomrule", r"\end{tabular}"]
        for part in parts
    ]
    joined = [line for tabular in tabulars for line in (r"\par\medskip", *tabular)][1:]
    return [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        *_caption(table),
        *type_.commands,
        *joined,
        *_notes(table),
        r"\end{table}",
    ]


def _pages(table: RenderedTable, type_: _Type, parts: Sequence[Sequence[_Column]]) -> list[str]:
    lines = ["% needs \\usepackage{booktabs,longtable}", r"\begingroup", *type_.commands]
    for number, part in enumerate(parts, start=1):
        # Every part is the same table under the same number.
        caption, label = _caption(table)
        if number > 1:
            lines.append(r"\addtocounter{table}{-1}")
            caption, label = rf"\caption[]{{{latex(table.caption)} (part {number} of {len(parts)})}}", ""
        lines += [rf"\begin{{longtable}}{{{_letters(part)}}}", rf"{caption}{label} \\", *_head(part), r"\endfirsthead"]
        lines += [*_head(part), r"\endhead", r"\bottomrule", r"\endfoot", *_body(table, part), r"\end{longtable}"]
    return [*lines, *_notes(table), r"\endgroup"]


def _caption(table: RenderedTable) -> tuple[str, str]:
    label = re.sub("[^a-zA-Z0-9]+", "-", table.name)
    return rf"\caption{{{latex(table.caption)}}}", rf"\label{{tab:{label}}}"


def _notes(table: RenderedTable) -> Iterator[str]:
    for note in table.notes:
        # The names of columns are long, and TeX breaks no line in them by itself.
        text = latex(note).replace(r"\_", r"\_\allowbreak{}")
        yield rf"\par\smallskip{{\footnotesize\sloppy {text}\par}}"


def _letters(part: Sequence[_Column]) -> str:
    return "".join(column.letter for column in part)


def _head(part: Sequence[_Column]) -> list[str]:
    return [r"\toprule", " & ".join(map(_heading, part)) + r" \\", r"\midrule"]


def _heading(column: _Column) -> str:
    if len(column.heading) == 1:
        return column.heading[0]
    stacked = r" \\ ".join(column.heading)
    return rf"\shortstack[{'r' if column.letter == 'r' else 'l'}]{{{stacked}}}"


def _body(table: RenderedTable, part: Sequence[_Column]) -> Iterator[str]:
    for index in range(len(table.rows)):
        if index in table.breaks:
            yield r"\midrule"
        yield " & ".join(column.cells[index] for column in part) + r" \\"


def _lines(heading: str, most: int) -> tuple[str, ...]:
    """The heading in lines of about so many characters, broken behind blanks and underscores."""
    lines = [""]
    for word in re.findall(r"[^ _]+[ _]*|[ _]+", heading):
        if lines[-1] and len(lines[-1]) + len(word.rstrip()) > most:
            lines.append("")
        lines[-1] += word
    return tuple(line.strip() for line in lines)


def _text(cell: Cell) -> str:
    return number_text(cell.content) if isinstance(cell.content, Number) else visible(cell.content, "\n\t")


def _characters(cell: Cell) -> int:
    length: int = sum(map(_length, _text(cell)))
    return length * 7 // 6 + 1 if cell.mark is BestMark.BEST else length


def _length(letter: str) -> int:
    """Characters that a letter takes: what no font has is written as its number."""
    return len("[U+1F600]") if latex(letter).startswith("{[}U+") else 1


def _cell(cell: Cell) -> str:
    text = _number(cell.content) if isinstance(cell.content, Number) else latex(visible(cell.content, "\n\t"))
    match cell.mark:
        case BestMark.BEST:
            return rf"\textbf{{\boldmath {text}}}"
        case BestMark.SECOND:
            return rf"\underline{{{text}}}"
        case _:
            return text


def _paragraph(cell: Cell) -> str:
    """A cell of text whose lines may end within long names, too."""
    words = visible(str(cell.content), "\n\t").split()
    text = " ".join(r"\allowbreak{}".join(map(latex, _pieces(word))) for word in words)
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
