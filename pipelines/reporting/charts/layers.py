"""Rows and chart shared by `hierarchy` and `amplification`: curves against the layer, attention left of MLP."""

from collections.abc import Mapping, Sequence

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme

_WIDTH, _HEIGHT = 330, 85
_UNCHANGED = "unchanged"


def curves(frame: pl.DataFrame, titles: Mapping[str, str], parts: Sequence[str]) -> pl.DataFrame:
    """Return one row per layer and curve, from one row per layer.

    Args:
        frame: one row per model × recipe × layer × sublayer × lens.
        titles: title of each curve, by prefix of its columns.
        parts: suffixes of the columns.

    Returns:
        The variant, the sublayer's title as `quantity`, layer, curve and parts. `run` numbers the series of consecutive
        layers of a panel, so that no line crosses layers that the recipe left unchanged. `is_alone` marks a series of
        one layer.
    """
    key = ["model", "recipe", "sublayer", "lens"]
    named = (
        theme.with_variant(frame)
        .sort(*key, "layer", maintain_order=True)
        .with_columns(
            pl.col("sublayer").cast(pl.String).replace(theme.SUBLAYER_TITLES).alias("quantity"),
            (pl.col("layer").cast(pl.Int32).diff().over(key).fill_null(1) != 1).cum_sum().over(key).alias("run"),
        )
        .with_columns((pl.len().over([*key, "run"]) == 1).alias("is_alone"))
    )
    return theme.stacked(
        named, ["variant", "quantity", "layer", "run", "is_alone", "positions"], "curve", titles, parts
    )


def draw(
    long: pl.DataFrame, y: alt.Y, colors: Sequence[str], shapes: Sequence[str], *above: alt.Chart
) -> theme.AnyChart:
    """Draw the mean or median of each curve as a line, one row of panels per variant; p10 to p90, if given, as a band.

    Args:
        long: rows of `curves`.
        y: title, scale and axis of the values.
        colors: colours of the curves.
        shapes: shapes of the curves' points, which distinguish the curves without colour.
        above: further layers of every panel.
    """
    axis = {name: y[name] for name in ("scale", "axis", "title")}
    titles = theme.names(long, "curve")
    sublayers = [name for name in theme.SUBLAYER_TITLES.values() if name in set(long["quantity"])]
    middle = "mean" if "mean" in long.columns else "median"
    base = theme.valid(theme.Chart(), middle).encode(
        x=theme.whole_axis("layer", "layer", long["layer"]),
        color=theme.nominal(alt.Color, "curve", titles, colors, legend=theme.POINTS),
        detail=alt.Detail("run:N"),
    )
    bands = []
    if "p10" in long.columns:
        spread = theme.span(alt.Y("p10:Q", **axis), "p90:Q")
        # An area or line of one layer, such as a dropped sublayer, has no extent: a bar shows its spread.
        alone = base.transform_filter("datum.is_alone").mark_rule(opacity=0.4, strokeWidth=2)
        bands = [base.mark_area(opacity=0.16).encode(**spread), alone.encode(**spread)]
    height = alt.Y(f"{middle}:Q", **axis)
    # The second curve often coincides with the first; the gaps between its dashes show the first.
    dashes = [[1, 0], [5, 4], [1, 0]][: len(titles)]
    dash = theme.nominal(alt.StrokeDash, "curve", titles, dashes, legend=theme.POINTS)
    shape = theme.nominal(alt.Shape, "curve", titles, shapes, legend=theme.POINTS)
    fields = [name for name in ("layer", middle, "p10", "p90", "positions") if name in long.columns]
    tooltip = theme.tooltip(f"variant:N quantity:N curve:N {' '.join(fields)}")
    # Every variant has a panel per sublayer, so that attention is below attention.
    panels = long.select("variant").unique(maintain_order=True).join(pl.DataFrame({"quantity": sublayers}), how="cross")
    unchanged = panels.join(long, on=["variant", "quantity"], how="anti").with_columns(pl.lit(_UNCHANGED).alias("text"))
    note = theme.valid(theme.Chart(), "text").mark_text(style="quiet", align="left")
    notes = [note.encode(x=alt.value(8), y=alt.value(_HEIGHT / 2), text=alt.Text("text:N"))]
    chart = alt.layer(
        *above,
        *bands,
        base.mark_line(strokeWidth=1.8).encode(y=height, strokeDash=dash),
        base.mark_point(size=16, filled=True, opacity=1).encode(y=height, shape=shape, tooltip=tooltip),
        *(notes if unchanged.height else []),
        theme.row_names(sublayers[0], above=3),
        data=theme.rows(pl.concat([long, unchanged], how="diagonal")),
    ).properties(width=_WIDTH, height=_HEIGHT)
    column = alt.Column("quantity:N", title=None, sort=sublayers, header=alt.Header(labelPadding=24))
    return theme.variant_grid(chart, panels, column, 24, 14)
