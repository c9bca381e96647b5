"""The treatment that each sublayer gets in each result of a search, as one map per result."""

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.display_text import label

TITLE = "Which sublayer gets which treatment"
CAPTION = (
    "One map per result of a search: the strategy and the share of the budget that it was to remove. Columns are the "
    "layers from the first on, with attention left of its MLP; rows are the treatments, from those that remove least "
    "to those that remove most. A cell is filled where the sublayer gets the treatment, and its colour is the share of "
    "the sublayer's weights that this removes; grey where that is not known."
)
_CELL = 13


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draw the results of one search on one model."""
    if frame.is_empty():
        return theme.no_data(TITLE, "no search has a result")
    treatments = (
        frame.group_by("treatment")
        .agg(pl.col("removed_share").mean(), (pl.col("treatment") != "keep").any().alias("is_treated"))
        .sort("is_treated", "removed_share", "treatment", nulls_last=True)["treatment"]
        .cast(pl.String)
    )
    names = theme.distinct_labels(treatments)
    panel = pl.format("{} · remove {} %", pl.col("strategy").cast(pl.String), (100 * pl.col("remove")).round(2))
    named = frame.with_columns(
        panel.str.replace(".0 %", " %", literal=True).alias("panel"),
        pl.col("treatment").cast(pl.String).replace_strict(names),
        (2 * pl.col("layer").cast(pl.Int32) + (pl.col("sublayer").cast(pl.String) == "mlp")).alias("column"),
    ).drop("model", "search", "strategy", "remove")
    panels = theme.names(named, "panel")
    columns = list(range(2 * (int(named["layer"].max()) + 1)))  # type: ignore[arg-type]
    every = max(1, len(columns) // 2 // 10)
    ticks = [2 * layer for layer in range(0, len(columns) // 2, every)]
    color = alt.Color(
        "removed_share:Q",
        title="share of its weights removed",
        scale=alt.Scale(scheme="viridis", reverse=True, domain=[0, 1]),
        legend=alt.Legend(format="~%", gradientLength=160),
    )
    base = (
        theme.Chart()
        .mark_rect(stroke=theme.GREY, strokeWidth=0.4)
        .encode(
            x=alt.X(
                "column:O",
                title="layer",
                scale=alt.Scale(domain=columns),
                axis=alt.Axis(values=ticks, labelExpr="floor(datum.value / 2)", labelAngle=0),
            ),
            y=alt.Y("treatment:N", title=None, scale=alt.Scale(domain=list(names.values())), axis=alt.Axis(grid=False)),
            tooltip=theme.tooltip(
                "panel:N", "layer:Q", "sublayer:N", "treatment:N", "removed_share:Q", "effect_nats:Q"
            ),
        )
    )
    parts = [
        base.transform_filter(condition).encode(color=value)
        for condition, value, is_there in (
            ("isValid(datum.removed_share)", color, named["removed_share"].is_not_null().any()),
            ("!isValid(datum.removed_share)", alt.value(theme.GREY), named["removed_share"].is_null().any()),
        )
        if is_there
    ]
    chart = alt.layer(*parts, data=theme.rows(named)).properties(
        width=len(columns) * _CELL if len(columns) <= 64 else 64 * _CELL, height=len(names) * (_CELL + 3)
    )
    subtitle = f"{theme.models(frame)} · search {label(str(frame['search'][0]))}"
    return theme.themed(
        chart.facet(
            facet=alt.Facet("panel:N", title=None, sort=panels),
            columns=1 if len(columns) > 32 else 2,
            spacing=30,
            title=theme.title(TITLE, subtitle),
        ).resolve_axis(x="independent")
    )
