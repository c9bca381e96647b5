"""Overlap of the masks of every two variants, as a matrix."""

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme

# With more variants, a cell has room for only one number.
MAX_NUMBERED = 16
# Smaller margins round to 0 in the two decimals of a cell.
_MIN_MARGIN = 0.005
TITLE = "Which variants remove the same weights"
CAPTION = (
    "Number of weights that both variants remove, divided by the number that at least one removes (Jaccard): 1 is the "
    "same mask, 0 a disjoint one. It is over all matrices; each sample of a matrix is weighted by the weights that it "
    "represents. The last number of a cell is the expected overlap of two independent masks of these sizes. Between "
    "them, if it reaches the second decimal, is half the width of the widest 95 % interval that sampling can cause "
    "(Wilson); the heading gives the largest. With more than 16 variants, cells are small and show only the overlap. "
    "With more than 50, only the first by name are shown. Variants that remove nothing are left out."
)
NEEDS = "no two variants with masks were sampled"


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw the pairs of one model's variants, the lower triangle of the matrix."""
    recipes = sorted(set(frame["recipe"].cast(pl.String)) | set(frame["other_recipe"].cast(pl.String)))
    names = theme.distinct_labels(recipes)
    named = frame.with_columns(
        *(pl.col(column).cast(pl.String).replace_strict(names) for column in ("recipe", "other_recipe")),
        margin=(pl.col("jaccard_high") - pl.col("jaccard_low")) / 2,
    ).drop("model", "jaccard_low", "jaccard_high")
    order = list(names.values())
    is_numbered = len(order) <= MAX_NUMBERED
    x_axis, y_axis = alt.Axis(labelAngle=-40, domain=False, ticks=False), alt.Axis(domain=False, ticks=False)
    base = theme.Chart(theme.rows(named)).encode(
        x=alt.X("recipe:N", title=None, sort=order, scale=alt.Scale(domain=order[:-1]), axis=x_axis),
        y=alt.Y("other_recipe:N", title=None, sort=order, scale=alt.Scale(domain=order[1:]), axis=y_axis),
    )
    color = alt.Color(
        "jaccard_removed:Q",
        title="overlap of the removed weights (Jaccard)",
        scale=alt.Scale(scheme="blues", domain=[0, 1]),
        legend=alt.Legend(gradientLength=200),
    )
    tooltip = [
        *theme.tooltip("recipe:N other_recipe:N jaccard_removed"),
        alt.Tooltip("margin:Q", title="± (95 % interval)"),
        *theme.tooltip("jaccard_removed_expected matrices"),
    ]
    numbers = _numbers(base, is_numbered=is_numbered, has_margins=(named["margin"] >= _MIN_MARGIN).any())
    cell = alt.Step(44 if is_numbered else 26)
    chart = alt.layer(base.mark_rect().encode(color=color, tooltip=tooltip), *numbers).properties(
        width=cell, height=cell, view=alt.ViewBackground(stroke=None)
    )
    margins = named["margin"].drop_nulls().to_list()
    sampling = f"95 % interval by sampling: ± {max(margins):.2g} at most" if any(margins) else ""
    return chart, [theme.about(frame), sampling or ("every weight was looked at" if margins else "")]


def _numbers(base: alt.Chart, *, is_numbered: bool, has_margins: bool) -> list[alt.Chart]:
    """Return the numbers of a cell, from top to bottom."""
    ink = alt.condition("datum.jaccard_removed > 0.55", alt.value("white"), alt.value(theme.INK))
    overlap = alt.Text("jaccard_removed:Q", format=".2f")
    if not is_numbered:
        return [base.mark_text(fontSize=9).encode(text=overlap, color=ink)]
    small = base.encode(color=ink, opacity=alt.value(0.8))
    expected = alt.Text("jaccard_removed_expected:Q", format=".2f")
    lines = [
        base.mark_text(fontSize=11, dy=-11 if has_margins else -5).encode(text=overlap, color=ink),
        small.mark_text(fontSize=9, dy=14 if has_margins else 9).encode(text=expected),
    ]
    if has_margins:
        margins = small.transform_filter(f"datum.margin >= {_MIN_MARGIN}").transform_calculate(
            margin_told="'± ' + format(datum.margin, '.2f')"
        )
        lines.append(margins.mark_text(fontSize=9, dy=2).encode(text=alt.Text("margin_told:N")))
    return lines
