"""Tests of a chart's own page in a browser: it draws, sends no request, and runs no code from a model's text."""

import polars as pl
import pytest
import vl_convert

from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.html import chart_page, vega_script
from prunescope.pipelines.reporting.charts.registry import FIGURES
from tests.pipelines.reporting.charts import frames
from tests.pipelines.reporting.explorer.browser_page import chromium

EVIL = [
    "</script><script>window.ran=1</script>",
    "<img src=x onerror=window.ran=1>",
    "</script",
    "<!--<script>",
    "\u202e&quot;",
]
DRAWN = """
const [done] = arguments;
const look = () => (document.querySelector("svg") ? done() : setTimeout(look, 50));
look();
"""
MARKS = "return document.querySelectorAll('svg .role-mark:not(.mark-group) > *').length"


def test_pages_draw_with_the_vega_that_draws_files():
    assert vega_script() == vl_convert.javascript_bundle(), "`make vendor` copies it anew"


@pytest.mark.chromium
@pytest.mark.parametrize("is_dark", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_hostile_text_neither_runs_nor_breaks_a_chart(is_dark, tmp_path):
    figure = FIGURES["tokens"]
    frame = frames.ask(figure.query)
    texts = pl.Series([EVIL[at % len(EVIL)] for at in range(frame.height)])
    columns = ["token_text_dense", "token_text_pruned"]
    hostile = frame.with_columns(texts.alias(name) for name in columns)
    part = hostile.filter(prompt_id=hostile["prompt_id"][0])
    specification = theme.dressed(FIGURES["tokens"].draw(part).to_dict(), dark=is_dark)
    (tmp_path / "page.html").write_bytes(chart_page(specification, "</title><script>window.ran=1</script>"))
    with chromium() as driver:
        driver.get((tmp_path / "page.html").as_uri())
        driver.set_script_timeout(60)
        driver.execute_async_script(DRAWN)
        assert driver.execute_script(MARKS) >= part.height
        assert driver.execute_script("return window.ran") is None
        assert driver.execute_script("return document.title").startswith("</title>")
        assert driver.get_log("browser") == []


def test_a_charts_page_allows_only_its_own_scripts():
    figure = FIGURES["generation"]
    page = chart_page(next(figure.draw_all(frames.ask(figure.query))).specification, "generation").decode()
    head = page.split("<title>", 1)[0]
    assert "default-src 'none'" in head.replace("&#39;", "'")
    assert "unsafe" not in head
    assert "https://" not in head
