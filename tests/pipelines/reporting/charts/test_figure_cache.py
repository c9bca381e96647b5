"""Tests that the cache queries and draws each figure once, for all its readers."""

from collections.abc import Iterator

import altair as alt
import polars as pl
import pytest

from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.figure_cache import FigureCache
from prunescope.pipelines.reporting.charts.publication_size import Specification
from prunescope.pipelines.reporting.charts.registry import Figure


class Counted:
    """A figure of two pages that counts its queries and drawings; the page `broken` fails once."""

    def __init__(self, broken: str = "") -> None:
        self.asked: list[str] = []
        self.drawn: list[str] = []
        self.broken = broken
        self.figure = Figure("some", "Some", "", "select 1", self._draw, ("model",), page_by=None)

    def ask(self, query: str) -> pl.DataFrame:
        self.asked.append(query)
        return pl.DataFrame({"model": ["a", "b"]})

    def _draw(self, frame: pl.DataFrame) -> alt.Chart:
        [model] = frame["model"]
        self.drawn.append(model)
        if model == self.broken:
            self.broken = ""
            raise ValueError(model)
        return alt.Chart(alt.InlineData(values=[])).mark_point().properties(title=model)


def pages(made: Iterator[tuple[str, dict[str, object]]]) -> list[object]:
    return [specification["title"] for _, specification in made]


def test_a_report_after_a_preview_draws_only_the_other_pages() -> None:
    counted = Counted()
    drawn = FigureCache(counted.ask)
    title, first = next(drawn.drawings(counted.figure))
    assert (title, first["title"], counted.drawn) == ("Some: a", "a", ["a"])
    assert pages(drawn.drawings(counted.figure)) == ["a", "b"]
    assert pages(drawn.drawings(counted.figure)) == ["a", "b"]
    assert counted.drawn == ["a", "b"]
    assert drawn.answer("select 1").height == 2
    assert counted.asked == ["select 1"]


def test_concurrent_readers_each_get_every_page_once() -> None:
    counted = Counted()
    drawn = FigureCache(counted.ask)
    one, other = drawn.drawings(counted.figure), drawn.drawings(counted.figure)
    assert [next(one)[0], next(other)[0], *pages(one), *pages(other)] == ["Some: a", "Some: a", "b", "b"]
    assert counted.drawn == ["a", "b"]


def test_a_failed_figure_is_drawn_again_from_its_first_page() -> None:
    counted = Counted(broken="b")
    drawn = FigureCache(counted.ask)
    with pytest.raises(ValueError, match="b"):
        pages(drawn.drawings(counted.figure))
    assert pages(drawn.drawings(counted.figure)) == ["a", "b"]


def test_a_chart_used_twice_equals_altairs_and_stays_unchanged():
    def specifications(kind: type[alt.Chart]) -> list[Specification]:
        chart = kind(theme.inline([{"a": 1, "b": 2, "c": "x"}])).mark_point().encode(x="a:Q", y="b:Q")
        chosen, other = (chart.add_params(alt.selection_point(name=name)) for name in ("chosen", "other"))
        tall, line = chart.properties(height=50), chart.mark_line()
        together = alt.vconcat(alt.layer(line, chosen), alt.layer(line, chart), alt.hconcat(tall, other))
        made = [together, alt.layer(line, chart).facet("c:N"), chart, chosen, other, tall, line]
        return [each.to_dict() for each in made]

    assert specifications(theme.Chart) == specifications(alt.Chart)
