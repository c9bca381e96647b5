"""All figures by name, each with title, caption, query and drawing function."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from threading import Lock
from typing import Any

import polars as pl
from altair.utils.schemapi import debug_mode

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.suggestions import did_you_mean
from prunescope.pipelines.reporting.charts.display_text import label
from prunescope.pipelines.reporting.charts.publication_size import GOOD_TYPE, FittedChart, Specification, fitted
from prunescope.pipelines.reporting.charts.sql_files import read_sql
from prunescope.pipelines.reporting.charts.theme import (
    AnyChart,
    balanced,
    dressed,
    finished,
    names,
    no_data,
    vega_lite,
)

# Larger charts (in bytes of JSON) slow down a browser.
MAX_BYTES = 2_000_000

# Altair's debug mode is global to the process.
_DRAWING = Lock()
# Names of the parts of a figure in headings, by column of `per`. Other parts are named by their value alone.
_PARTS = {"lens": "lens {}", "prompt_id": "prompt {}", "search": "search {}"}
# Names of the panels of a page in captions, by `page_by`; the others have an s after their column.
_PAGED = {"recipe": "variants", "kind": "kinds of task", "remove": "targets"}


@dataclass(frozen=True)
class Drawing:
    """One chart of a figure.

    Attributes:
        name: figure and the part shown, for a file name: only letters, digits, `.`, `_` and `-`.
        title: title and the part shown, for a heading.
        specification: the chart as Vega-Lite; must not be modified.
        rows: the rows of the query that it shows.
    """

    name: str
    title: str
    specification: Specification
    rows: pl.DataFrame


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: short name.
        title: a few words on what it shows.
        caption: a few sentences on how to read it.
        query: SELECT over the marts, with deterministic samples and aggregates.
        draw: function from the query's rows to one chart.
        per: columns; `draw_all` draws one chart per combination of their values.
        page_by: column whose values `draw_all` spreads over pages; None if the query limits the size of the chart.
        page_size: maximum number of values of `page_by` per page; None allows as many as `max_bytes`.
        max_bytes: maximum bytes of a chart's JSON.
        print_by: column whose values `printed` spreads over pages of a paper; None is `page_by`.
        draw_narrow: like `draw`, for one column of a paper; None is `draw`.
    """

    name: str
    title: str
    caption: str
    query: str
    draw: Callable[[pl.DataFrame], AnyChart]
    per: tuple[str, ...]
    page_by: str | None = "recipe"
    page_size: int | None = None
    max_bytes: int = MAX_BYTES
    print_by: str | None = None
    draw_narrow: Callable[[pl.DataFrame], AnyChart] | None = None

    def draw_all(self, frame: pl.DataFrame) -> Iterator[Drawing]:
        """Draw one chart per combination of `per`, in the order of the rows; without rows, one chart that says so.

        A chart larger than `max_bytes` is split into pages by `page_by`. If it cannot be split, a chart that says so
        replaces it.
        """
        if frame.is_empty():
            yield Drawing(self.name, self.title, self._specification(frame), frame)
            return
        parts = frame.partition_by(self.per, maintain_order=True, as_dict=True)
        # Names and titles contain only the columns in which the charts differ.
        varying = [index for index, _ in enumerate(self.per) if len({key[index] for key in parts}) > 1]
        pages = [(key, *page) for key, part in parts.items() for page in self._pages(part, self.page_size)]
        drawn = ((key, *page) for key, part, values in pages for page in self._draw_pages(part, values))
        for number, (key, specification, values, rows) in enumerate(drawn, start=1):
            words = [re.sub(r"[^A-Za-z0-9._-]+", "_", str(key[index]))[:60] for index in varying]
            labels = [_PARTS.get(self.per[index], "{}").format(label(str(key[index]))) for index in varying] + values
            # Numbers distinguish names that differ only in characters that a file name cannot have.
            numbers = [f"{number:02d}"] if len(pages) > 1 or values else []
            title = f"{self.title}: {', '.join(labels)}" if labels else self.title
            yield Drawing("-".join([self.name, *numbers, *words]), title, specification, rows)

    def printed(
        self, drawing: Drawing, columns: int, *, is_dark: bool = False, has_title: bool = True
    ) -> list[FittedChart]:
        """Return a drawing as pictures for one or two columns of a paper, each no larger than a page.

        The values of `print_by` are spread evenly over as few pages as keep the type readable. Without `has_title`,
        title and subtitle are left to a caption.
        """

        def picture(specification: Specification) -> FittedChart:
            return fitted(dressed(specification, dark=is_dark), columns, has_title=has_title)

        by = self.print_by or self.page_by
        values = names(drawing.rows, by) if by else []
        is_narrow = columns == 1 and self.draw_narrow is not None and bool(values)
        pages = [picture(self._specification(drawing.rows, is_narrow=True) if is_narrow else drawing.specification)]
        length = len(values)
        while any(page.is_too_tall for page in pages) and length > 1:
            # A page with half of the panels is about half as high.
            length = max(1, min(length - 1, int(length * min(page.type_points for page in pages) / GOOD_TYPE)))
            parts = (part for part, _ in self._pages(drawing.rows, length, by))
            pages = [picture(self._specification(part, is_narrow=is_narrow)) for part in parts]
        return pages

    def _specification(self, part: pl.DataFrame, *, is_narrow: bool = False) -> Specification:
        # Without validation, which takes as long as drawing; the tests validate each figure.
        with _DRAWING, debug_mode(False):
            chart = (self.draw_narrow if is_narrow and self.draw_narrow else self.draw)(part)
        return chart.to_dict(validate=False)

    def _pages(
        self, part: pl.DataFrame, page_size: int | None, by: str | None = None
    ) -> Iterator[tuple[pl.DataFrame, list[str]]]:
        """Yield the rows of each page, and the label of its values of `by`, which a single page does not have."""
        by = by or self.page_by
        values = names(part, by) if by else []
        if page_size is None or len(values) <= page_size:
            yield part, []
            return
        # Pages of equal length, so that the last one is not a single panel.
        length = balanced(len(values), page_size)
        for start in range(0, len(values), length):
            chosen = values[start : start + length]
            ends = dict.fromkeys(label(str(value)) for value in (chosen[0], chosen[-1]))
            yield part.filter(pl.col(str(by)).is_in(chosen)), [" to ".join(ends)]

    def _draw_pages(
        self, part: pl.DataFrame, values: list[str]
    ) -> Iterator[tuple[Specification, list[str], pl.DataFrame]]:
        """Draw one page, or as many as keep each below `max_bytes`."""
        specification = self._specification(part)
        size = len(vega_lite(specification))
        count = part[self.page_by].n_unique() if self.page_by else 1
        if size <= self.max_bytes:
            yield specification, values, part
        elif count == 1:
            chart = no_data(self.title, f"this part alone takes more than {self.max_bytes / 1e6:g} MB")
            yield chart.to_dict(validate=False), values, part
        else:
            # A margin of a tenth, so that a page above the mean size needs no second split.
            for page, page_values in self._pages(part, max(1, int(0.9 * count * self.max_bytes / size))):
                yield from self._draw_pages(page, page_values)


def _figure(name: str, *per: str, page_by: str | None = "recipe", **pages: Any) -> Figure:  # noqa: ANN401
    """Return the figure that the module and the statement of this name define."""
    module = import_module(f"prunescope.pipelines.reporting.charts.{name}")
    caption, (_, query) = module.CAPTION, read_sql("figures", name)
    if page_by:
        count = f"at most {pages['page_size']}" if "page_size" in pages else "all"
        panels = _PAGED.get(page_by, f"{page_by}s")
        caption += f" A page holds {count} {panels}, or as many as stay below {MAX_BYTES / 1e6:g} MB."
    if hasattr(module, "draw_narrow"):
        pages["draw_narrow"] = partial(finished, module, draw="draw_narrow")
    return Figure(name, module.TITLE, caption, query, partial(finished, module), per, page_by, **pages)


FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        _figure("spaces", "model", "prompt_id"),
        _figure("hierarchy", "model", "lens", page_size=12),
        _figure("amplification", "model", "lens", page_size=12),
        _figure("estimates", "model", "lens", page_by=None, print_by="theorem"),
        _figure("generation", "model", page_size=12),
        _figure("survival", "model", page_size=12),
        _figure("sequence", "model", page_size=30),
        _figure("temperature", "model", page_size=12),
        _figure("tokens", "model", "prompt_id", page_size=12),
        _figure("top_tokens", "model", "prompt_id", page_size=12),
        _figure("options", "model", "prompt_id"),
        _figure("drops", "model", page_by="kind"),
        _figure("layer_map", "model", page_size=6),
        _figure("spikes", "model", "lens", page_size=12),
        _figure("depth", "lens", page_by="model", page_size=8, print_by="sublayer"),
        _figure("rescue", "model", page_by="recipe", page_size=6),
        _figure("flips", "model", page_by="task", page_size=9),
        _figure("flip_matrix", "model", "metric", page_by=None),
        _figure("pareto", "model", page_by="measure"),
        _figure("losses", "measure", page_by="model", page_size=8),
        _figure("quantization", "model", "quantization", page_by="measure"),
        _figure("quantization_steps", "model", page_by=None),
        _figure("calibration", "model"),
        _figure("masks", "model", page_by=None),
        _figure("speed", "model", page_by="measure"),
        _figure("search", "model", page_by="panel"),
        _figure("allocation", "model", "search", page_by="remove"),
    )
}


def find_figure(name: str) -> Figure:
    """Return the figure of that name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in FIGURES:
        raise InputError(f"there is no figure {name!r}; {did_you_mean(name, FIGURES)}there are {', '.join(FIGURES)}")
    return FIGURES[name]
