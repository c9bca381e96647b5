"""Treatment that each sublayer gets in each result of a search, as one map per result."""

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.display_text import label

TITLE = "Which sublayer gets which treatment"
CAPTION = (
    "One map per result of a search, named by the strategy and the share of the budget to remove. Columns are the "
    "layers, from the first on. If sparsities are split between matrices, rows are the matrices. Then the colour of a "
    "cell is the share of the matrix that is removed, or of the sublayer if it has another treatment. A dot marks a "
    "treatment that removes no weight. If sparsities are not split, every layer has two columns, attention left of its "
    "MLP, and rows are the treatments, from those that remove least to those that remove most. Then a cell is filled "
    "if the sublayer gets the treatment. Grey: the share is not known."
)
NEEDS = "no search has a result"
_CELL = 13
_REMOVES_NOTHING = (pl.col("removed_share") == 0) & (pl.col("treatment") != "keep")


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw the results of one search on one model."""
    panel = pl.format("{} · remove {} %", pl.col("strategy").cast(pl.String), (100 * pl.col("remove")).round(2))
    named = frame.with_columns(
        panel.str.replace(".0 %", " %", literal=True).alias("panel"),
        pl.col("layer").cast(pl.Int32),
        pl.col("sublayer", "matrix", "treatment").cast(pl.String),
    ).drop("model", "search", "strategy", "remove")
    panels = theme.names(named, "panel")
    is_split = bool((named["matrix"] != "all").any())
    # Rows are matrices, attention's first, or treatments, keep first.
    place = pl.format("{} {}", "sublayer", "matrix") if is_split else pl.col("treatment")
    treatments = (
        named.group_by("treatment")
        .agg(pl.col("removed_share").mean(), (pl.col("treatment") != "keep").any().alias("is_treated"))
        .sort("is_treated", "removed_share", "treatment", nulls_last=True)["treatment"]
    )
    names = theme.distinct_labels(named.select(place.unique().sort()).to_series() if is_split else treatments)
    rows = list(names.values())
    column = pl.col("layer") if is_split else 2 * pl.col("layer") + (pl.col("sublayer") == "mlp")
    named = named.with_columns(place.replace_strict(names).alias("row"), column.alias("column"))
    per_layer = 1 if is_split else 2
    layers = theme.largest(named, "layer") + 1
    columns = list(range(per_layer * layers))
    color = alt.Color(
        "removed_share:Q",
        title="share of its weights removed",
        scale=alt.Scale(scheme="viridis", reverse=True, domain=[0, 1]),
        legend=alt.Legend(format="~%", gradientLength=160),
    )
    ticks = [per_layer * layer for layer in range(0, layers, max(1, layers // 10))]
    axis = alt.Axis(values=ticks, labelExpr=f"floor(datum.value / {per_layer})", labelAngle=0)
    base = (
        theme.Chart()
        .mark_rect(stroke=theme.GREY, strokeWidth=0.4)
        .encode(
            x=alt.X("column:O", title="layer", scale=alt.Scale(domain=columns), axis=axis),
            y=alt.Y("row:N", title=None, scale=alt.Scale(domain=rows), axis=alt.Axis(grid=False)),
            tooltip=theme.tooltip("panel:N layer sublayer:N matrix:N treatment:N removed_share effect_nats"),
        )
    )
    shares = named["removed_share"]
    parts = [theme.valid(base, "removed_share").encode(color=color)] if shares.count() else []
    if shares.null_count():
        parts.append(base.transform_filter("!isValid(datum.removed_share)").encode(color=alt.value(theme.GREY)))
    if is_split and not named.filter(_REMOVES_NOTHING).is_empty():
        dots = base.transform_filter("datum.removed_share == 0 && datum.treatment != 'keep'")
        parts.append(dots.mark_point(filled=True, size=12, color="black", opacity=1))
    chart = alt.layer(*parts, data=theme.rows(named)).properties(
        width=min(len(columns), 64) * _CELL, height=len(rows) * (_CELL + 3)
    )
    maps = theme.faceted(chart, "panel", panels, 1 if len(columns) > 32 else 2, spacing=30)
    about = theme.about(frame, "model", f"search {label(str(frame['search'][0]))}")
    return maps.resolve_axis(x="independent"), [about]
