"""Tests that every figure looks like its reference picture; `baseline` redraws those pictures."""

import polars as pl
import pytest

from prunescope.pipelines.reporting.charts.registry import FIGURES
from tests.pipelines.reporting.charts import baseline, frames

# Rounding differs by machine and changes a few pixels of an edge; a missing line changes more (see the second test).
TOLERANCE = 0.001


@pytest.mark.third(1)
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_equals_its_reference_picture(name, tmp_path):
    kept = baseline.FOLDER / f"{name}.png"
    assert kept.exists(), f"look at it and keep it: python -m tests.pipelines.reporting.charts.baseline {name}"
    now = baseline.picture(name)
    (tmp_path / f"{name}.png").write_bytes(now)
    share = baseline.difference(kept.read_bytes(), now)
    assert share <= TOLERANCE, (
        f"{share:.2%} of the pixels differ from {kept}; the new picture is {tmp_path / kept.name}. If it is right: "
        f"python -m tests.pipelines.reporting.charts.baseline {name}"
    )


def test_a_moved_curve_is_a_difference_and_an_equal_curve_is_none():
    figure = FIGURES["generation"]
    frame = frames.ask(figure.query, decoding_curve=frames.decoding_curve(recipes=frames.RECIPES[:2]))
    moved = frame.with_columns(pl.col("kl_median") * pl.when(recipe=frames.RECIPES[0]).then(2).otherwise(1))
    one, same, other = (baseline.render(figure.draw(rows)) for rows in (frame, frame.clone(), moved))
    assert baseline.difference(one, same) == 0
    assert baseline.difference(one, other) > TOLERANCE


def test_a_picture_of_another_size_is_a_difference():
    figure = FIGURES["options"]
    frame = frames.ask(figure.query)
    one, other = (baseline.render(figure.draw(rows)) for rows in (frame, frame.filter(frame["recipe"] != "wanda-50")))
    assert baseline.difference(one, other) == 1
