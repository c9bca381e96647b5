"""All figures by name: title, caption, the SQL that feeds each, and the function that draws it.

Running the SQL and saving the pictures belongs to the caller.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from threading import Lock
from types import ModuleType

import polars as pl
from altair.utils.schemapi import debug_mode

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.reporting.charts import (
    amplification,
    calibration,
    drops,
    estimates,
    flip_matrix,
    flips,
    generation,
    hierarchy,
    layer_map,
    masks,
    options,
    pareto,
    quantization,
    spaces,
    speed,
    spikes,
    temperature,
    tokens,
    top_tokens,
)
from prunescope.pipelines.reporting.charts.display_text import label
from prunescope.pipelines.reporting.charts.publication_size import Specification
from prunescope.pipelines.reporting.charts.theme import AnyChart, no_data, vega_lite

# Of a chart's JSON as it is written to a file: more than this makes a browser slow.
MOST_BYTES = 2_000_000


_DRAWING = Lock()


@dataclass(frozen=True)
class Drawing:
    """One chart of a figure.

    Attributes:
        name: for a file name: figure and the part shown, only letters, digits, `.`, `_` and `-`.
        title: for a heading.
        chart: the chart.
        specification: the chart as Vega-Lite, not to be changed.
    """

    name: str
    title: str
    chart: AnyChart
    specification: Specification


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: short name.
        title: what it shows, in a few words.
        caption: how to read it, in a few sentences.
        query: SELECT over the marts; its sample or aggregation is deterministic.
        draw: frame of the query's rows to one chart.
        per: columns of the frame; each combination of their values gets a chart of its own in `draw_all`.
        page_by: the column whose values `draw_all` spreads over pages; None where the query bounds the chart.
        most: values of `page_by` a page, so that it stays a page long; None: as many as `most_bytes` let.
        most_bytes: of a chart's JSON.
    """

    name: str
    title: str
    caption: str
    query: str
    draw: Callable[[pl.DataFrame], AnyChart]
    per: tuple[str, ...]
    page_by: str | None = "recipe"
    most: int | None = None
    most_bytes: int = MOST_BYTES

    def draw_all(self, frame: pl.DataFrame) -> Iterator[Drawing]:
        """Draws one chart per combination of `per`, in the order of the rows; one that says so for no rows.

        No chart is larger than `most_bytes`: its values of `page_by` come on more pages, and what cannot be split gives
        a chart that says so.
        """
        if frame.is_empty():
            chart = self._chart(frame)
            yield Drawing(self.name, self.title, chart, _specified(chart))
            return
        parts = frame.partition_by(self.per, maintain_order=True, as_dict=True)
        # Only what tells the charts apart goes into their names.
        told = [index for index, _ in enumerate(self.per) if len({key[index] for key in parts}) > 1]
        pages = [(key, *page) for key, part in parts.items() for page in self._pages(part, self.most)]
        drawn = ((key, *page) for key, part, values in pages for page in self._drawn(part, values))
        for number, (key, chart, specification, values) in enumerate(drawn, start=1):
            words = [str(key[index]) for index in told]
            told_by = [_PARTS[self.per[index]].format(label(str(key[index]))) for index in told] + values
            # The number keeps names apart that differ only in characters that a file name cannot have.
            numbers = [f"{number:02d}"] if len(pages) > 1 or values else []
            slug = "-".join([self.name, *numbers, *map(_slug, words)])
            title = ": ".join([self.title, *([", ".join(told_by)] if told_by else [])])
            yield Drawing(slug, title, chart, specification)

    def _chart(self, part: pl.DataFrame) -> AnyChart:
        # Valid by the tests of each figure; checking every part of it again takes as long as drawing. The mode is the
        # whole process's.
        with _DRAWING, debug_mode(False):
            return self.draw(part)

    def _pages(self, part: pl.DataFrame, most: int | None) -> Iterator[tuple[pl.DataFrame, list[str]]]:
        """The rows of at most `most` values at a time, and which values they are where there are several pages."""
        values = part[self.page_by].unique(maintain_order=True).to_list() if self.page_by else []
        if most is None or len(values) <= most:
            yield part, []
            return
        # Pages of equal length, so that the last one is not a single panel.
        length = math.ceil(len(values) / math.ceil(len(values) / most))
        for start in range(0, len(values), length):
            chosen = values[start : start + length]
            ends = dict.fromkeys(label(str(value)) for value in (chosen[0], chosen[-1]))
            yield part.filter(pl.col(str(self.page_by)).is_in(chosen)), [" to ".join(ends)]

    def _drawn(self, part: pl.DataFrame, values: list[str]) -> Iterator[tuple[AnyChart, Specification, list[str]]]:
        """One page, or as many as keep each below `most_bytes`."""
        chart = self._chart(part)
        specification = _specified(chart)
        size = len(vega_lite(specification))
        if size <= self.most_bytes:
            yield chart, specification, values
            return
        count = part[self.page_by].n_unique() if self.page_by else 1
        if count == 1:
            chart = no_data(self.title, f"this part alone takes more than {self.most_bytes / 1e6:g} MB")
            yield chart, _specified(chart), values
            return
        # Of pages that are a little larger than their share none is to be split again.
        most = max(1, int(0.9 * count * self.most_bytes / size))
        for fewer, its_values in self._pages(part, most):
            yield from self._drawn(fewer, its_values)


# How a heading names the part of a figure that it shows.
_PARTS = {"model": "{}", "lens": "lens {}", "prompt_id": "prompt {}", "quantization": "{}", "metric": "{}"}


def _specified(chart: AnyChart) -> Specification:
    specification: Specification = chart.to_dict(validate=False)
    return specification


def _slug(word: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", word)[:60]


# What a page holds several of, by `page_by`.
_PAGED = {"recipe": "variants", "task": "tasks", "measure": "measures", "kind": "kinds of task"}


def _figure(
    name: str, module: ModuleType, *per: str, page_by: str | None = "recipe", most: int | None = None
) -> Figure:
    caption = module.CAPTION
    if page_by:
        pages = (
            f"A page holds at most {most} {_PAGED[page_by]}, or" if most else f"A page holds all {_PAGED[page_by]}, or"
        )
        caption += f" {pages} as many as stay below {MOST_BYTES / 1e6:g} MB."
    return Figure(name, module.TITLE, caption, module.QUERY, module.draw, per, page_by, most)


FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        _figure("spaces", spaces, "model", "prompt_id"),
        _figure("hierarchy", hierarchy, "model", "lens", most=12),
        _figure("amplification", amplification, "model", "lens", most=12),
        _figure("estimates", estimates, "model", "lens", page_by=None),
        _figure("generation", generation, "model", most=12),
        _figure("temperature", temperature, "model", most=12),
        _figure("tokens", tokens, "model", "prompt_id", most=12),
        _figure("top_tokens", top_tokens, "model", "prompt_id", most=12),
        _figure("options", options, "model", "prompt_id"),
        _figure("drops", drops, "model", page_by="kind"),
        _figure("layer_map", layer_map, "model", most=6),
        _figure("spikes", spikes, "model", "lens", most=12),
        _figure("flips", flips, "model", page_by="task", most=9),
        _figure("flip_matrix", flip_matrix, "model", "metric", page_by=None),
        _figure("pareto", pareto, "model", page_by="measure"),
        _figure("quantization", quantization, "model", "quantization", page_by="measure"),
        _figure("calibration", calibration, "model"),
        _figure("masks", masks, "model", page_by=None),
        _figure("speed", speed, "model", page_by="measure"),
    )
}


def find_figure(name: str) -> Figure:
    """Find a figure by its name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in FIGURES:
        like = get_close_matches(name, FIGURES, n=1)
        hint = f"did you mean {like[0]}? " if like else ""
        raise InputError(f"there is no figure {name!r}; {hint}there are {', '.join(FIGURES)}")
    return FIGURES[name]
