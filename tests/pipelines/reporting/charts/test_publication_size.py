"""Tests of charts at the size of a paper's columns: they fit, are legible, and show the same marks."""

import copy
import json
import re

import polars as pl
import pytest

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.reporting.charts import files, theme
from prunescope.pipelines.reporting.charts.publication_size import WIDTHS, FittedChart, fitted
from prunescope.pipelines.reporting.charts.registry import FIGURES, Drawing
from tests.pipelines.reporting.charts import frames

CELLS = {"tokens", "flip_matrix", "masks"}  # filled cells, whose text chooses by the colour of its cell


def drawing(name: str, **marts: pl.DataFrame) -> Drawing:
    figure = FIGURES[name]
    return next(figure.draw_all(frames.ask(figure.query, **marts)))


def size(svg: str) -> tuple[float, float]:
    return tuple(map(float, re.search(r'<svg[^>]* width="([\d.]+)" height="([\d.]+)"', svg).groups()))


def marks(pages: list[FittedChart], role: str) -> int:
    return sum(page.svg.count(f'aria-roledescription="{role}"') for page in pages)


@pytest.mark.third(1)
@pytest.mark.parametrize("name", FIGURES)
def test_every_page_fits_its_columns_with_readable_type_and_no_mark_is_lost(name):
    drawn = drawing(name)
    before = copy.deepcopy(drawn.specification)
    wide, narrow = (FIGURES[name].printed(drawn, columns) for columns in (2, 1))
    for columns, pages in ((2, wide), (1, narrow)):
        for page in pages:
            width, height = size(page.svg)
            assert width <= (234, 487)[columns - 1]
            assert height <= 560
            assert 6 <= page.type_points <= 7.7
    assert drawn.specification == before
    if name not in {"tokens", "estimates"}:  # the dense row and the diagonals are repeated on each page
        assert marks(narrow, "point") == marks(wide, "point")


def test_a_chart_too_high_for_a_page_is_spread_over_few_pages_of_about_equal_length():
    pages = FIGURES["survival"].printed(drawing("survival"), 1)
    shown = [[recipe for recipe in frames.RECIPES if f">{recipe}<" in page.svg] for page in pages]
    assert sorted(recipe for page in shown for recipe in page) == sorted(frames.RECIPES)
    assert [len(page) for page in shown] == [3, 3]


def test_a_page_without_title_is_lower_and_has_the_same_marks():
    drawn = drawing("options")
    (titled,), (bare,) = (FIGURES["options"].printed(drawn, 2, has_title=has_title) for has_title in (True, False))
    assert "Options against" in titled.svg
    assert "Options against" not in bare.svg
    assert size(bare.svg)[1] < size(titled.svg)[1]
    assert marks([bare], "point") == marks([titled], "point") > 0


def test_a_stacked_panel_names_its_own_rows():
    drawn = drawing("calibration").specification
    beside, below = (fitted(drawn, columns).svg.count("wanda-50 → wanda-50-c4 (calibration)<") for columns in (2, 1))
    assert below == 2 * beside > 0


def test_illegible_charts_are_refused():
    with pytest.raises(InputError, match=r"--columns: the type would be 4\.9 points high.*draw fewer variants"):
        files.print_files([FittedChart("<svg/>", 7.0, False), FittedChart("<svg/>", 4.9, False)], "svg")


def test_a_pdf_is_as_wide_as_the_columns_and_its_fonts_are_the_shipped_ones_embedded():
    for columns, name in ((1, "options"), (2, "tokens")):
        pages = files.print_files(FIGURES[name].printed(drawing(name), columns), "pdf")
        assert list(pages) == ([""] if len(pages) == 1 else [f"-page{n}" for n in range(1, len(pages) + 1)])
        for pdf in pages.values():
            assert float(re.search(rb"/MediaBox \[0 0 ([\d.]+)", pdf)[1]) <= WIDTHS[columns] + 1
            descriptors = re.findall(rb"/Type /FontDescriptor.*?>>", pdf, re.DOTALL)
            assert all(b"/FontFile" in descriptor for descriptor in descriptors)
            fonts = {re.search(rb"/FontName /\w+\+(\w+)", descriptor)[1] for descriptor in descriptors}
            assert fonts <= {b"Arimo", b"DejaVuSansMono"}
            assert (b"DejaVuSansMono" in fonts) == (name == "tokens")


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
