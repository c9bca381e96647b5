"""Tests that no figure causes a warning of Vega, such as one about an empty scale.

Without a browser these tests are skipped.
"""

import polars as pl
import pytest

from prunescope.pipelines.reporting.charts.registry import FIGURES
from tests.pipelines.reporting.charts import frames
from tests.pipelines.reporting.charts.console import console

pytestmark = pytest.mark.chromium
# Values that a study may lack: they are NULL in the result.
INTERVALS = ("_low", "_high", "_se", "value_quantized", "equal_sides", "low", "high")
# Columns for which a figure has panels.
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


@pytest.mark.third(0)
@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_incomplete_studies_draw_without_warnings(name, browser):
    figure = FIGURES[name]
    complaints = {
        case: browser.of(next(figure.draw_all(frame)).specification)
        for case, frame in cases(frames.ask(figure.query)).items()
    }
    assert {case: heard for case, heard in complaints.items() if heard} == {}


def test_the_console_collects_warnings(browser):
    rows = [{"panel": "a", "x": 1}]
    panel = {"mark": "point", "encoding": {"x": {"field": "y", "type": "quantitative"}}}
    (heard,) = browser.of({"data": {"values": rows}, **panel})
    assert "Infinite extent for field" in heard
