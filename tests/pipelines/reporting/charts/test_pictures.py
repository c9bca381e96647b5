"""Tests that every figure looks like its reference picture on a machine without fonts; `baseline` redraws those."""

import polars as pl
import pytest

from prunescope.pipelines.reporting.charts.registry import FIGURES
from tests.pipelines.reporting.charts import baseline, frames

# Rounding differs by machine and changes a few pixels of an edge; a missing line changes more (see the second test).
TOLERANCE = 0.001
# A letter of 11 pixels changes about 20 pixels.
MIN_INK = 6


@pytest.fixture(scope="module")
def drawings(request, tmp_path_factory):
    """Return the folder of the figures under test, drawn with the shipped fonts only, and their ink."""
    folder = tmp_path_factory.mktemp("drawn")
    items = [item for item in request.session.items if "drawings" in getattr(item, "fixturenames", ())]
    return folder, baseline.draw_without_fonts(sorted({item.callspec.params["name"] for item in items}), folder)


@pytest.mark.third(1)
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_equals_its_reference_picture_and_draws_its_text_without_a_font_of_the_system(name, drawings):
    folder, inks = drawings
    kept = baseline.FOLDER / f"{name}.png"
    assert kept.exists(), f"look at it and keep it: python -m tests.pipelines.reporting.charts.baseline {name}"
    share = baseline.difference(kept.read_bytes(), (folder / kept.name).read_bytes())
    assert share <= TOLERANCE, (
        f"{share:.2%} of the pixels differ from {kept}; the new picture is {folder / kept.name}. If it is right: "
        f"python -m tests.pipelines.reporting.charts.baseline {name}"
    )
    assert min(inks[name].values()) > MIN_INK, inks[name]


def test_a_moved_curve_is_a_difference_and_an_equal_curve_is_none():
    figure = FIGURES["generation"]
    frame = frames.ask(figure.query, decoding_curve=frames.decoding_curve(recipes=frames.RECIPES[:2]))
    moved = frame.with_columns(pl.col("kl_median") * pl.when(recipe=frames.RECIPES[0]).then(2).otherwise(1))
    one, same, other = (baseline.render(figure.draw(rows).to_dict()) for rows in (frame, frame.clone(), moved))
    assert baseline.difference(one, same) == 0
    assert baseline.difference(one, other) > TOLERANCE


def test_a_picture_of_another_size_is_a_difference():
    figure = FIGURES["options"]
    frame = frames.ask(figure.query)
    one, other = (
        baseline.render(figure.draw(rows).to_dict()) for rows in (frame, frame.filter(frame["recipe"] != "wanda-50"))
    )
    assert baseline.difference(one, other) == 1
