"""The figures ask the real views for what the synthetic frames of `tests/pipelines/reporting/charts` promise them.

Their numbers and looks are tested there.
"""

import duckdb
import numpy as np
import pytest

from prunescope.pipelines.reporting.charts.registry import FIGURES
from tests.pipelines.reporting.charts import frames

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


def test_the_area_under_each_roc_curve_of_the_demo_is_that_of_q01(measured: duckdb.DuckDBPyConnection):
    frame = measured.sql(FIGURES["spikes"].query).pl()
    key = ["recipe", "lens", "sublayer", "layer"]
    areas = {row[:-1]: row[-1] for row in frame.filter("is_best", frame["auc"].is_not_null())[*key, "auc"].iter_rows()}
    curves = frame.drop_nulls("true_positive_rate").partition_by(key, as_dict=True)
    assert curves.keys() == areas.keys()
    assert len(curves) == 20  # two lenses of two sublayers, and of one where only attention or the MLP was dropped
    for curve, points in curves.items():
        x, y = ([0.0, *points[rate]] for rate in ("false_positive_rate", "true_positive_rate"))
        # The demo has 72 positions, of which a curve of 60 thresholds leaves out twelve.
        assert np.trapezoid(y, x) == pytest.approx(areas[curve], abs=0.01)
