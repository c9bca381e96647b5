"""Tests of charts at the width of a paper's columns: they fit, are legible, and show the same marks."""

import copy
import json
import re

import polars as pl
import pytest

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.reporting.charts import files, theme
from prunescope.pipelines.reporting.charts.publication_size import MIN_TYPE, WIDTHS, fitted
from prunescope.pipelines.reporting.charts.registry import FIGURES
from tests.pipelines.reporting.charts import frames

TOO_WIDE = {"tokens"}  # twelve tokens of text beside each other
CELLS = {"tokens", "flip_matrix", "masks"}  # filled cells, whose text chooses by the colour of its cell


def specification(name: str, **marts: pl.DataFrame) -> dict:
    figure = FIGURES[name]
    return next(figure.draw_all(frames.ask(figure.query, **marts))).chart.to_dict()


def width(svg: str) -> float:
    return float(re.search(r'<svg[^>]* width="([\d.]+)"', svg)[1])


@pytest.mark.third(0)
@pytest.mark.parametrize(
    "name", ["spaces", pytest.param("generation", marks=pytest.mark.exhaustive), "top_tokens", "options", "tokens"]
)
def test_a_chart_fits_its_columns_with_legible_type(name):
    drawn = specification(name)
    before = copy.deepcopy(drawn)
    for columns in (1, 2):
        found = fitted(drawn, columns)
        assert width(found.svg) <= WIDTHS[columns] + 0.01
        assert (found.type_points < MIN_TYPE) == (columns == 1 and name in TOO_WIDE)
        assert found.type_points <= 7.7
    assert drawn == before


def test_panels_are_stacked_in_one_column_and_their_marks_stay():
    drawn = specification("hierarchy", layer_summary=frames.layer_summary(layers=8))
    wide, narrow = (fitted(drawn, columns).svg for columns in (2, 1))
    heights = [float(re.search(r'<svg[^>]* height="([\d.]+)"', svg)[1]) for svg in (wide, narrow)]
    assert heights[1] > 1.5 * heights[0]
    assert narrow.count('aria-roledescription="point"') == wide.count('aria-roledescription="point"') > 0


def test_a_stacked_panel_names_its_own_rows():
    drawn = specification("calibration")
    beside, below = (fitted(drawn, columns).svg.count("wanda-50 → wanda-50-c4 (calibration)<") for columns in (2, 1))
    assert below == 2 * beside > 0


def test_illegible_one_column_charts_are_refused_and_not_exported():
    figure = FIGURES["tokens"]
    specification = next(figure.draw_all(frames.ask(figure.query))).specification
    with pytest.raises(InputError, match=r"--columns 1: the type would be \d\.\d points high.*use --columns 2"):
        files.chart_file(specification, "pdf", columns=1)
    assert set(files.chart_files(specification)) == {".vl.json", ".svg", ".pdf", ".png"}


def test_a_pdf_is_as_wide_as_the_columns_and_its_fonts_are_embedded():
    drawn = specification("options")
    for columns in (1, 2):
        pdf = files.chart_file(drawn, "pdf", columns)
        assert float(re.search(rb"/MediaBox \[0 0 ([\d.]+)", pdf)[1]) <= WIDTHS[columns] + 1
        descriptors = re.findall(rb"/Type /FontDescriptor.*?>>", pdf, re.DOTALL)
        assert descriptors
        assert all(b"/FontFile" in descriptor for descriptor in descriptors)


@pytest.mark.third(2)
@pytest.mark.parametrize("name", FIGURES)
def test_a_dark_figure_differs_only_in_its_config_and_its_lines_have_contrast(name):
    figure = FIGURES[name]
    specification = next(figure.draw_all(frames.ask(figure.query))).specification
    light, dark = (theme.dressed(specification, dark=is_dark) for is_dark in (False, True))
    assert {**light, "config": None} == {**specification, "config": None}
    assert {key for key in light if light[key] != dark[key]} == {"config"}
    del light["config"], light["datasets"]
    if name in CELLS:
        return
    for colour in set(re.findall(r'"(#[0-9a-f]{6})"', json.dumps(light), re.IGNORECASE)):
        for ground in ("#ffffff", theme.config(dark=True)["background"]):
            assert contrast(colour, ground) > 2.2, (colour, ground)


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of WCAG 2."""
    low, high = sorted(map(_luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
