"""Charts of the size of one or two columns of a paper, with readable type.

The content of a chart stays: panels are stacked, then made narrower, then the whole is scaled. `registry` spreads a
chart that would become too small over pages.
"""

import re
import textwrap
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import vl_convert

# The fonts of the theme, Arimo and DejaVu Sans Mono. vl-convert draws no letter of a font that it does not have, and
# measures letters correctly only in fonts of 2,048 units per em, such as these.
vl_convert.register_font_directory(str(Path(__file__).with_name("vendor")))

Specification: TypeAlias = dict[str, Any]

# Widths of one and of two columns in points, close to those of ICML, NeurIPS and ACL.
WIDTHS = {1: 234.0, 2: 486.0}
# Height in points. A caption of 80 fits below, because the text of ICML, NeurIPS and ACL is at least 640 high.
HEIGHT = 560.0
# Widths in pixels at which the smallest type of 11 pixels is at least 7.5 points high.
PIXELS = {1: 340, 2: 705}
# Height in points of the smallest type that is readable in print.
MIN_TYPE = 5.0
# A chart whose height would make its type smaller is spread over pages.
GOOD_TYPE = 6.5
_TYPE = 11
_MIN_PANEL_WIDTH = 62
# Up to this excess over the width, panels are made narrower; beyond it they are stacked.
_MAX_EXCESS = 1.4
# Approximate pixels of names, axes and margins next to the panels.
_MARGIN = 90
_SIZE = re.compile(r'width="([\d.]+)" height="([\d.]+)"')


@dataclass(frozen=True)
class FittedChart:
    """Chart for print.

    Attributes:
        svg: the picture, at most as wide as the columns and as high as a page, sized in points.
        type_points: height of its smallest type.
        is_too_tall: whether its height makes its type smaller than `GOOD_TYPE`.
    """

    svg: str
    type_points: float
    is_too_tall: bool


def fitted(specification: Specification, columns: int, *, has_title: bool = True) -> FittedChart:
    """Return a chart as a picture of the size of one or two columns of a paper.

    Args:
        specification: a chart with its config; it is not modified.
        columns: 1 or 2.
        has_title: whether to keep title and subtitle, which a caption can replace.
    """
    chart, max_width = deepcopy(specification), PIXELS[columns]
    if not has_title:
        chart.pop("title", None)
    elif isinstance(title := chart.get("title"), dict):
        title["text"] = _wrapped(title["text"], int(max_width / 8.5))
        if title.get("subtitle"):
            title["subtitle"] = _wrapped(title["subtitle"], int(max_width / 6.6))
    if columns == 1:
        chart["config"]["legend"] = {**chart["config"]["legend"], "columns": 1}
    svg = vl_convert.vegalite_to_svg(chart)
    if (width := _size(svg)[0]) > _MAX_EXCESS * max_width:
        _stack(chart, _MAX_EXCESS * max_width / width)
        svg = vl_convert.vegalite_to_svg(chart)
    # Twice: names and margins keep their width, so the first step can leave the chart too wide.
    for _ in range(2):
        width = _size(svg)[0]
        if width <= max_width or not _narrow(chart, (max_width - _MARGIN) / (width - _MARGIN)):
            break
        svg = vl_convert.vegalite_to_svg(chart)
    width, height = _size(svg)
    # A small chart is not enlarged: its type would be larger than the text of the paper.
    wide, high = WIDTHS[columns] / max(width, max_width), HEIGHT / height
    scale = min(wide, high)
    sized = f'width="{width * scale:.2f}" height="{height * scale:.2f}"'
    return FittedChart(_SIZE.sub(sized, svg, count=1), _TYPE * scale, high < wide and _TYPE * scale < GOOD_TYPE)


def _size(svg: str) -> tuple[float, float]:
    match = _SIZE.search(svg)
    if match is None:
        raise ValueError("this SVG does not say its size")
    return float(match[1]), float(match[2])


def _parts(chart: Specification) -> list[Specification]:
    """Return the chart and all charts inside it."""
    inner = [part for key in ("concat", "hconcat", "vconcat") for part in chart.get(key, [])]
    if isinstance(chart.get("spec"), dict):
        inner.append(chart["spec"])
    return [chart, *(nested for part in inner for nested in _parts(part))]


def _stack(chart: Specification, share: float) -> None:
    """Put as many panels in a row as fit into a share of the width, and concatenated charts below each other."""
    for part in _parts(chart):
        facet = part.get("facet", {})
        if "column" in facet and "row" not in facet:  # one row of panels becomes several
            part["facet"], part["columns"] = facet["column"], len(facet["column"].get("sort", []))
        if part.get("columns", 1) > 1:
            part["columns"] = max(1, int(part["columns"] * share))
        if "hconcat" in part:
            part["vconcat"] = part.pop("hconcat")
            for panel in _parts({"vconcat": part["vconcat"]}):
                # Rows that shared the names of the chart on their left now need their own names.
                for layer in (panel, *panel.get("layer", [])):
                    layer.get("encoding", {}).get("y", {}).get("axis", {}).pop("labels", None)


def _narrow(chart: Specification, factor: float) -> bool:
    """Make panels narrower; return False if all have the minimum width."""
    changed = False
    for part in _parts(chart):
        width = part.get("width")
        if isinstance(width, int | float) and width > _MIN_PANEL_WIDTH:
            part["width"] = max(_MIN_PANEL_WIDTH, int(width * factor))
            # So that long names above adjacent panels do not overlap.
            limit = {"labelLimit": part["width"] + 20}
            chart["config"]["header"] = {**chart["config"]["header"], **limit}
            changed = True
    return changed


def _wrapped(text: str | list[str], characters: int) -> list[str]:
    return [line for one in ([text] if isinstance(text, str) else text) for line in textwrap.wrap(one, characters)]
