"""Charts at the width of one or two columns of a paper, with type that can still be read there.

What a chart shows does not change: panels are stacked, then made narrower, then the whole is scaled.
"""

import re
import textwrap
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import vl_convert

# What models write is set in DejaVu Sans Mono. It comes along: a machine without any such font draws no letter of it.
vl_convert.register_font_directory(str(Path(__file__).with_name("vendor")))

Specification: TypeAlias = dict[str, Any]

# Widths of one and of two columns in points, as ICML, NeurIPS and ACL have them within a few points.
WIDTHS = {1: 234.0, 2: 486.0}
# Pixels that a chart may take: its smallest type of 11 pixels is then at least 7.5 points high.
PIXELS = {1: 340, 2: 705}
# Smaller type than this is not readable in print.
SMALLEST_TYPE = 5.0
_TYPE = 11
_NARROWEST = 62
# So much too wide, panels are made narrower and stay beside each other.
_ALMOST = 1.4
# Pixels of names, axes and margins beside the panels, about.
_BESIDE = 90
_SIZE = re.compile(r'width="([\d.]+)" height="([\d.]+)"')


@dataclass(frozen=True)
class FittedChart:
    """A chart for print.

    Attributes:
        svg: the picture, as wide as the columns, in points.
        type_points: height of its smallest type.
    """

    svg: str
    type_points: float


def fitted(specification: Specification, columns: int, drawn: str | None = None) -> FittedChart:
    """The chart as a picture of the width of one or two columns of a paper.

    Args:
        specification: a chart with its config; it is not changed.
        columns: 1 or 2.
        drawn: the SVG of the specification as it is, where it is at hand; drawing is what takes the time.
    """
    chart, most = deepcopy(specification), PIXELS[columns]
    drawn = drawn or vl_convert.vegalite_to_svg(specification)
    _wrap_titles(chart, most)
    if columns == 1:
        chart["config"]["legend"] = {**chart["config"]["legend"], "columns": 1}
    if (width := _size(drawn)[0]) > _ALMOST * most:
        _stack(chart, _ALMOST * most / width)
    svg = vl_convert.vegalite_to_svg(chart)
    # What stands beside the panels keeps its width, so that it can take a second step.
    for _ in range(2):
        width = _size(svg)[0]
        if width <= most or not _narrow(chart, (most - _BESIDE) / (width - _BESIDE)):
            break
        svg = vl_convert.vegalite_to_svg(chart)
    width, height = _size(svg)
    # A small chart is not blown up: its type would be larger than the text around it.
    scale = WIDTHS[columns] / max(width, most)
    sized = f'width="{width * scale:.2f}" height="{height * scale:.2f}"'
    return FittedChart(_SIZE.sub(sized, svg, count=1), _TYPE * scale)


def _size(svg: str) -> tuple[float, float]:
    match = _SIZE.search(svg)
    if match is None:
        raise ValueError("this SVG does not say its size")
    return float(match[1]), float(match[2])


def _parts(chart: Specification) -> list[Specification]:
    """The chart and all charts inside it."""
    found = [chart]
    for key in ("concat", "hconcat", "vconcat"):
        found += [inner for part in chart.get(key, []) for inner in _parts(part)]
    return found + (_parts(chart["spec"]) if isinstance(chart.get("spec"), dict) else [])


def _stack(chart: Specification, share: float) -> None:
    """As many panels beside each other as fit into a share of the width; what stood side by side goes below."""
    for part in _parts(chart):
        facet = part.get("facet", {})
        if "column" in facet and "row" not in facet:  # one row of panels becomes several
            part["facet"], part["columns"] = facet["column"], len(facet["column"].get("sort", []))
        if part.get("columns", 1) > 1:
            part["columns"] = max(1, int(part["columns"] * share))
        if "hconcat" in part:
            part["vconcat"] = part.pop("hconcat")
            for panel in _parts({"vconcat": part["vconcat"]}):
                # What stood beside names of its rows needs them itself.
                for layer in (panel, *panel.get("layer", [])):
                    layer.get("encoding", {}).get("y", {}).get("axis", {}).pop("labels", None)


def _narrow(chart: Specification, factor: float) -> bool:
    """Narrower panels; False where all are as narrow as they may be."""
    changed = False
    for part in _parts(chart):
        width = part.get("width")
        if isinstance(width, int | float) and width > _NARROWEST:
            part["width"] = max(_NARROWEST, int(width * factor))
            # A long name above a panel would run into its neighbour's.
            limit = {"labelLimit": part["width"] + 20}
            chart["config"]["header"] = {**chart["config"]["header"], **limit}
            changed = True
    return changed


def _wrap_titles(chart: Specification, most: int) -> None:
    for part in _parts(chart):
        title = part.get("title")
        if part is chart and isinstance(title, dict):
            title["text"] = _wrapped(title["text"], int(most / 8.5))
            if title.get("subtitle"):
                title["subtitle"] = _wrapped(title["subtitle"], int(most / 6.6))


def _wrapped(text: str | list[str], characters: int) -> list[str]:
    return [line for one in ([text] if isinstance(text, str) else text) for line in textwrap.wrap(one, characters)]
