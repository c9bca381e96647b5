"""The figures ask the real views for what the synthetic frames of `tests/pipelines/charts` promise them.

Their numbers and looks are tested there.
"""

import duckdb
import pytest

from pipelines.charts.registry import FIGURES
from tests.pipelines.charts import frames

# Spikes take three at least, which a warehouse of 12 steps a variant does not have.
RARE = {"spikes"}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_gets_its_columns_from_the_views_and_draws_them(whole: duckdb.DuckDBPyConnection, name: str):
    figure = FIGURES[name]
    frame = whole.sql(figure.query).pl()
    assert frame.columns == frames.ask(figure.query).columns
    assert frame.is_empty() == (name in RARE)
    drawing = next(figure.draw_all(frame))
    assert ("no data" in drawing.chart.to_json()) == (name in RARE)
