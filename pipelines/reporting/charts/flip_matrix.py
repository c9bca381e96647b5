"""Number of right answers that one variant has and another does not have, for every two variants, as a matrix."""

from typing import Any

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.display_text import label, percent

# Cells of more variants have no numbers, so that 34 variants still fit one column of a paper.
MAX_NUMBERED = 16
TITLE = "Right answers that one variant has and another has not"
CAPTION = (
    "Each cell counts the samples that the variant of its row answers right and the variant of its column wrong, "
    "among those that both answered, over all tasks of the metric. The cell across the diagonal counts the opposite. "
    "If both are dark, the two variants are right on different questions. The dense model comes first. The others "
    "follow in order of their right answers (in per cent after the name). A dot marks pairs that differ at p < 0.05 "
    "in an exact McNemar test of the two cells, with Holm's correction over all pairs. A pair without a dot is not "
    "proven to be equal. If there are more than 50 variants, only the dense model and those with the most right "
    f"answers are shown; the tests are over all. With up to {MAX_NUMBERED} variants the cells show the counts. One "
    "chart per metric."
)
NEEDS = "no task with right answers was asked of two variants"

LEVEL = 0.05
# Between a variant's name and its share of right answers.
_SEPARATOR = "  "


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw rows of `pairwise_flips` of one model and one metric."""
    cells, order = _cells(frame)
    is_numbered = len(order) <= MAX_NUMBERED
    size = 30 if is_numbered else 10
    axis = alt.Axis(domain=False, ticks=False, labelLimit=190, labelFontSize=11 if is_numbered else 10)
    # The share of right answers follows the name in the rows only.
    x_axis = alt.Axis(
        **axis.to_dict(),
        labelAngle=-45 if is_numbered else -90,
        labelExpr=f"slice(datum.label, 0, lastindexof(datum.label, '{_SEPARATOR}'))",
    )
    base = theme.Chart(theme.rows(cells)).encode(
        x=alt.X("without:N", title="… and wrong in", scale=alt.Scale(domain=order), axis=x_axis),
        y=alt.Y("with:N", title="right in …", scale=alt.Scale(domain=order), axis=axis),
    )
    max_share = float(cells["lost_share"].max() or 0)  # type: ignore[arg-type]
    color = alt.Color(
        "lost_share:Q",
        title="share of the samples",
        scale=alt.Scale(scheme="blues", domain=[0, max_share or 1]),
        legend=alt.Legend(gradientLength=160, format="~%", tickCount=4),
    )
    tooltip = theme.tooltip("with:N without:N lost gained n_samples lost_share holm_p")
    layers = [base.mark_rect().encode(color=color, tooltip=tooltip)]
    ink = alt.condition(f"datum.lost_share > {0.55 * max_share}", alt.value("white"), alt.value(theme.INK))
    if is_numbered:
        layers.append(base.mark_text(fontSize=11).encode(text=alt.Text("lost:Q"), color=ink))
    corner: dict[str, Any] = {"xOffset": 0.34 * size, "yOffset": -0.34 * size} if is_numbered else {}
    dots = base.transform_filter("datum.differs").mark_point(
        filled=True, size=14 if is_numbered else 9, opacity=1, **corner
    )
    chart = alt.layer(*layers, dots.encode(color=ink)).properties(width=alt.Step(size), height=alt.Step(size))
    fewest, most = theme.extent(frame["n_samples"])
    samples = f"{most:.0f}" if fewest == most else f"{fewest:.0f} to {most:.0f}"
    tasks, pairs = (
        f"one {noun}" if (count := theme.largest(frame, column)) == 1 else f"{count} {noun}s"
        for noun, column in (("task", "n_tasks"), ("pair", "n_tests"))
    )
    of_samples = f"{label(str(frame['metric'][0]))} · {samples} shared samples of {tasks}"
    marked = "dot: p < 0.05" if (frame["holm_p"] < LEVEL).any() else "none differs at p < 0.05"
    return chart, [theme.about(frame), of_samples, f"{pairs} tested · {marked}"]


def _cells(frame: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Return the cells with the variants' labels, and the labels in the order of rows and columns."""
    named = frame.with_columns(pl.col("recipe", "other_recipe").cast(pl.String))
    sides = (
        named.select(pl.col(f"{side}recipe", f"{side}right_share").name.map(lambda name: name.removeprefix("other_")))
        for side in ("", "other_")
    )
    variants = (
        pl.concat(sides)
        .group_by("recipe")
        .agg(pl.col("right_share").mean())
        .sort(pl.col("recipe") != "dense", -pl.col("right_share"), "recipe")
    )
    shown = theme.distinct_labels(variants["recipe"])
    labels = {recipe: f"{shown[recipe]}{_SEPARATOR}{percent(share, 0)}" for recipe, share in variants.iter_rows()}
    cells = named.select(
        pl.col("recipe").replace_strict(labels).alias("with"),
        pl.col("other_recipe").replace_strict(labels).alias("without"),
        *("lost", "gained", "n_samples", "lost_share", "holm_p"),
        (pl.col("holm_p") < LEVEL).alias("differs"),
    )
    return cells, list(labels.values())
