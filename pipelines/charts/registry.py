"""All figures by name: title, caption, the SQL that feeds each, and the function that draws it.

Running the SQL and saving the pictures belongs to the caller.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import polars as pl

from pipelines.charts import (
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
from pipelines.charts.text import label
from pipelines.charts.theme import AnyChart


@dataclass(frozen=True)
class Drawing:
    """One chart of a figure.

    Attributes:
        name: for a file name: figure and the part shown, only letters, digits, `.`, `_` and `-`.
        title: for a heading.
        chart: the chart.
    """

    name: str
    title: str
    chart: AnyChart


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
        most: recipes, or other values of `page_by`, a chart in `draw_all`, so that it stays a page long and its JSON
            below 2 MB; None: all.
        page_by: the column that `most` counts.
    """

    name: str
    title: str
    caption: str
    query: str
    draw: Callable[[pl.DataFrame], AnyChart]
    per: tuple[str, ...]
    most: int | None = None
    page_by: str = "recipe"

    def draw_all(self, frame: pl.DataFrame) -> Iterator[Drawing]:
        """Draws one chart per combination of `per`, in the order of the rows; one that says so for no rows."""
        if frame.is_empty():
            yield Drawing(self.name, self.title, self.draw(frame))
            return
        parts = frame.partition_by(self.per, maintain_order=True, as_dict=True)
        # Only what tells the charts apart goes into their names.
        told = [index for index, _ in enumerate(self.per) if len({key[index] for key in parts}) > 1]
        pages = [(key, *page) for key, part in parts.items() for page in self._pages(part)]
        for number, (key, part, variants) in enumerate(pages, start=1):
            words = [str(key[index]) for index in told]
            told_by = [_PARTS[self.per[index]].format(label(str(key[index]))) for index in told] + variants
            # The number keeps names apart that differ only in characters that a file name cannot have.
            slug = "-".join([self.name, *([f"{number:02d}"] if len(pages) > 1 else []), *map(_slug, words)])
            yield Drawing(slug, ": ".join([self.title, *([", ".join(told_by)] if told_by else [])]), self.draw(part))

    def _pages(self, part: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, list[str]]]:
        """The rows of at most `most` values at a time, and which values they are where there are several pages."""
        values = part[self.page_by].unique(maintain_order=True).to_list() if self.most else []
        if self.most is None or len(values) <= self.most:
            yield part, []
            return
        # Pages of equal length, so that the last one is not a single panel.
        length = math.ceil(len(values) / math.ceil(len(values) / self.most))
        for start in range(0, len(values), length):
            chosen = values[start : start + length]
            yield (
                part.filter(pl.col(self.page_by).is_in(chosen)),
                [f"{label(str(chosen[0]))} to {label(str(chosen[-1]))}"],
            )


# How a heading names the part of a figure that it shows.
_PARTS = {"model": "{}", "lens": "lens {}", "prompt_id": "prompt {}", "quantization": "{}", "metric": "{}"}


def _slug(word: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", word)[:60]


def _figure(name: str, module: ModuleType, *per: str, most: int | None = None, page_by: str = "recipe") -> Figure:
    return Figure(name, module.TITLE, module.CAPTION, module.QUERY, module.draw, per, most, page_by)


FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        _figure("spaces", spaces, "model", "prompt_id"),
        _figure("hierarchy", hierarchy, "model", "lens", most=12),
        _figure("amplification", amplification, "model", "lens", most=12),
        _figure("estimates", estimates, "model", "lens"),
        _figure("generation", generation, "model", most=12),
        _figure("temperature", temperature, "model", most=12),
        _figure("tokens", tokens, "model", "prompt_id", most=12),
        _figure("top_tokens", top_tokens, "model", "prompt_id", most=12),
        _figure("options", options, "model", "prompt_id"),
        _figure("drops", drops, "model"),
        _figure("layer_map", layer_map, "model", most=6),
        _figure("spikes", spikes, "model", "lens", most=12),
        _figure("flips", flips, "model", most=9, page_by="task"),
        _figure("flip_matrix", flip_matrix, "model", "metric"),
        _figure("pareto", pareto, "model"),
        _figure("quantization", quantization, "model", "quantization"),
        _figure("calibration", calibration, "model"),
        _figure("masks", masks, "model"),
        _figure("speed", speed, "model"),
    )
}
