"""A chart as files for papers and screens, the same bytes every time: Vega-Lite JSON, SVG, PDF, PNG, small JPEG."""

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

import vl_convert

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.reporting.charts.publication_size import MIN_TYPE, FittedChart, Specification
from prunescope.pipelines.reporting.charts.theme import vega_lite

Format: TypeAlias = Literal["pdf", "png", "svg"]
# Dots per pixel of a PNG for screens, and per point of a PNG for a paper (300 dpi).
_PNG_SCALE, _PRINT_SCALE = 2.0, 300 / 72
# Quality of small JPEGs, which take a tenth of a PNG.
_QUALITY = 66
# The size in the head of a drawing by vl-convert.
_SIZE = re.compile(r'width="([\d.]+)" height="([\d.]+)" viewBox="0 0 [\d.]+ [\d.]+"')
_REFERENCE = re.compile(rb"(\d+) 0 R\b")
# Entries of a resource dictionary, one per line, which vl-convert writes in the order of a hash table.
_ENTRIES = re.compile(rb"(?:^ *(?:/[\w+-]+ \d+ 0 R)\n){2,}", re.MULTILINE)


def chart_files(specification: Specification) -> dict[str, bytes]:
    """Return a chart's files for screens by suffix: the specification (with its config), SVG and PNG.

    The SVG only names its fonts, with fallbacks that every system has.
    """
    svg = vl_convert.vegalite_to_svg(specification)
    return {
        ".vl.json": vega_lite(specification),
        ".svg": svg.encode(),
        ".png": vl_convert.svg_to_png(svg, scale=_PNG_SCALE),
    }


def picture(svg: str, width: int, tallest: float) -> bytes:
    """Return the upper part of a drawing as a JPEG.

    Args:
        svg: the drawing.
        width: width of the picture in pixels.
        tallest: largest ratio of height to width; the rest is cut off.
    """
    across, down = map(float, _SIZE.search(svg).groups())  # type: ignore[union-attr]
    down = min(down, tallest * across)
    cut = _SIZE.sub(f'width="{across:g}" height="{down:g}" viewBox="0 0 {across:g} {down:g}"', svg, count=1)
    return vl_convert.svg_to_jpeg(cut, scale=width / across, quality=_QUALITY)


def preview(svg: str, max_bytes: int) -> bytes:
    """Return a drawing as a small PNG, scaled down, at most by half, if it exceeds `max_bytes`.

    The result may still exceed `max_bytes`.
    """
    small = vl_convert.svg_to_png(svg)
    # A scale of 0.75 saves less than a third of the bytes.
    for scale in (0.75, 0.5) if len(small) <= 1.5 * max_bytes else (0.5,):
        if len(small) > max_bytes:
            small = vl_convert.svg_to_png(svg, scale=scale)
    return small


def chart_file(specification: Specification, format_: Format) -> bytes:
    """Return one picture of a chart (a specification with its config), of the size as drawn."""
    return _converted(vl_convert.vegalite_to_svg(specification), format_, _PNG_SCALE)


def print_files(pages: Sequence[FittedChart], format_: Format) -> dict[str, bytes]:
    """Return the pages of a chart for a paper by suffix of their names; PDFs embed their fonts.

    Raises:
        InputError: a page is so wide that its type would be unreadable.
    """
    if (smallest := min(page.type_points for page in pages)) < MIN_TYPE:
        raise InputError(
            f"--columns: the type would be {smallest:.1f} points high, too small to read; draw fewer variants, or use "
            "more columns"
        )
    suffixes = [f"-page{number}" for number, _ in enumerate(pages, start=1)] if len(pages) > 1 else [""]
    return {suffix: _converted(page.svg, format_, _PRINT_SCALE) for suffix, page in zip(suffixes, pages, strict=True)}


def _converted(svg: str, format_: Format, scale: float) -> bytes:
    if format_ == "pdf":
        return canonical_pdf(vl_convert.svg_to_pdf(svg))
    return vl_convert.svg_to_png(svg, scale=scale) if format_ == "png" else svg.encode()


def canonical_pdf(pdf: bytes) -> bytes:
    """Return a PDF with resources sorted by name and objects numbered in the order of their first reference.

    vl-convert writes both in the order of its hash tables, which differs between runs.

    Raises:
        ValueError: the PDF is not as simple as those that vl-convert writes.
    """
    objects, trailer = _parsed(pdf)
    heads = {number: _sorted_entries(content.partition(b"\nstream\n")[0]) for number, content in objects.items()}
    order: list[int] = []
    unvisited = _references(trailer)[::-1]
    while unvisited:
        number = unvisited.pop()
        if number in heads and number not in order:
            order.append(number)
            unvisited.extend(_references(heads[number])[::-1])
    new_number = {number: new for new, number in enumerate(order, start=1)}

    def renumbered(text: bytes) -> bytes:
        return _REFERENCE.sub(lambda match: b"%d 0 R" % new_number[int(match[1])], text)

    body, offsets = bytearray(pdf[: pdf.index(b"\n") + 1] + b"%\x80\x80\x80\x80\n"), []
    for number in order:
        offsets.append(len(body))
        _, mark, stream = objects[number].partition(b"\nstream\n")
        body += b"%d 0 obj\n%s%s%s\nendobj\n" % (new_number[number], renumbered(heads[number]), mark, stream)
    start = len(body)
    body += b"xref\n0 %d\n0000000000 65535 f\r\n" % (len(order) + 1)
    body += b"".join(b"%010d 00000 n\r\n" % offset for offset in offsets)
    size = re.sub(rb"/Size \d+", b"/Size %d" % (len(order) + 1), renumbered(trailer))
    return bytes(body) + b"trailer\n%s\nstartxref\n%d\n%%%%EOF\n" % (size, start)


def _parsed(pdf: bytes) -> tuple[dict[int, bytes], bytes]:
    """Return the objects by number, without `obj` and `endobj`, and the trailer's dictionary."""
    end = re.search(rb"trailer\s*(<<.*?>>)\s*startxref\s*(\d+)\s*%%EOF\s*\Z", pdf, re.DOTALL)
    table = re.compile(rb"xref\s+0 (\d+)\s+").match(pdf, int(end[2])) if end else None
    if end is None or table is None:
        raise ValueError("this PDF has no plain cross-reference table")
    entries = re.findall(rb"(\d{10}) \d{5} ([nf])", pdf[table.end() : end.start()])
    starts = sorted(int(offset) for offset, kind in entries if kind == b"n")
    objects = {}
    for start, stop in zip(starts, [*starts[1:], int(end[2])], strict=True):
        match = re.compile(rb"(\d+) 0 obj\n(.*)\nendobj\s*", re.DOTALL).fullmatch(pdf, start, stop)
        if match is None:
            raise ValueError(f"this PDF has no plain object at byte {start}")
        objects[int(match[1])] = match[2]
    return objects, end[1]


def _sorted_entries(head: bytes) -> bytes:
    def in_order(match: re.Match[bytes]) -> bytes:
        return b"".join(line + b"\n" for line in sorted(match[0].splitlines(), key=lambda line: (len(line), line)))

    return _ENTRIES.sub(in_order, head)


def _references(text: bytes) -> list[int]:
    return [int(number) for number in _REFERENCE.findall(text)]
