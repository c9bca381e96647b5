"""Figures over the real views, which must have the columns of the frames in `tests/pipelines/reporting/charts`.

Their numbers and looks are tested there. Headers of the statements of figures and of the explorer are tested here.
"""

import re

import altair as alt
import duckdb
import numpy as np
import pytest

from prunescope.pipelines.reporting.charts.registry import FIGURES
from prunescope.pipelines.reporting.charts.sql_files import read_sql
from prunescope.pipelines.reporting.explorer.queries import STATEMENTS
from prunescope.warehouse.catalogue.database import SQL, view_sql
from prunescope.warehouse.catalogue.materialized import read_by
from prunescope.warehouse.tables import TABLES
from tests.pipelines.reporting.charts import frames

FILES = [
    path.relative_to(SQL).with_suffix("").as_posix()
    for folder in ("figures", "explorer")
    for path in (SQL / folder).rglob("*.sql")
]


def test_every_file_is_the_statement_of_a_figure_or_of_the_explorer():
    assert set(FILES) == {f"figures/{name}" for name in FIGURES} | {f"explorer/{key}" for key in STATEMENTS}


@pytest.mark.parametrize("file", FILES)
def test_a_header_says_what_a_statement_selects_its_grain_and_its_inputs(file: str):
    text = (SQL / f"{file}.sql").read_text(encoding="utf-8")
    title, statement = read_sql(*file.split("/", 1))
    assert title
    assert not title.endswith(".")
    assert text.endswith(f"\n{statement}\n")
    assert statement.startswith(("select", "with"))
    header = text.removesuffix(f"{statement}\n")
    assert re.search(r"^-- grain: one row.*\.$", header, re.MULTILINE)
    [inputs] = re.findall(r"^-- inputs: (.+)$", header, re.MULTILINE)
    assert sorted(inputs.split(", ")) == sorted(read_by(statement) & {*view_sql(), *TABLES})


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_gets_its_columns_from_the_views_and_draws_them(whole: duckdb.DuckDBPyConnection, name: str):
    figure = FIGURES[name]
    frame = whole.sql(figure.query).pl()
    assert frame.columns == frames.ask(figure.query).columns
    assert frame.height
    assert "no data" not in alt.Chart.from_dict(next(figure.draw_all(frame)).specification).to_json()


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
