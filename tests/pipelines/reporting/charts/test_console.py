"""Tests that no figure causes a warning of Vega, such as one about an empty scale.

Without a browser these tests are skipped.
"""

import polars as pl
import pytest

from prunescope.pipelines.reporting.charts.registry import FIGURES
from tests.pipelines.reporting.charts import frames
from tests.pipelines.reporting.charts.console import console

pytestmark = pytest.mark.chromium
# What a study may lack: it is NULL in the answer.
INTERVALS = ("_low", "_high", "_se", "value_quantized", "equal_sides", "low", "high")
# What a figure has a panel for.
PANELS = ("measure", "kind", "recipe", "task", "sublayer", "theorem", "trajectory")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with console(tmp_path_factory.mktemp("console")) as opened:
        yield opened


def cases(frame: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return the result unchanged, of one row, empty, without intervals, and with those of the first panel only."""
    found = {"usual": frame, "one row": frame.head(1), "empty": frame.clear()}
    lacking = [name for name in frame.columns if name.removesuffix("_nats").endswith(INTERVALS)]
    if lacking:
        found["without intervals"] = frame.with_columns(pl.lit(None, frame[name].dtype).alias(name) for name in lacking)
    for panel in (name for name in PANELS if lacking and name in frame.columns):
        first = pl.col(panel) == frame[panel].drop_nulls()[0]
        found[f"intervals of one {panel}"] = frame.with_columns(pl.when(first).then(pl.col(name)) for name in lacking)
    return found


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_without_a_warning_whatever_a_study_lacks(name, browser):
    figure = FIGURES[name]
    complaints = {
        case: browser.of(next(figure.draw_all(frame)).chart.to_dict(validate=False))
        for case, frame in cases(frames.ask(figure.query)).items()
    }
    assert {case: heard for case, heard in complaints.items() if heard} == {}


def test_a_warning_is_heard(browser):
    rows = [{"panel": "a", "x": 1}]
    panel = {"mark": "point", "encoding": {"x": {"field": "y", "type": "quantitative"}}}
    (heard,) = browser.of({"data": {"values": rows}, **panel})
    assert "Infinite extent for field" in heard
