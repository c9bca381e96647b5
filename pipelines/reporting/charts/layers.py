"""Query, rows and chart shared by `hierarchy` and `amplification`: a quantity in h, z and p against the layer."""

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme

PARTS = ("mean", "p10", "p90")
# The bands are pale; the legend is not.
_LEGEND = alt.Legend(symbolOpacity=1, symbolSize=70)


def by_space(frame: pl.DataFrame, quantity: str) -> pl.DataFrame:
    """Return one row per layer and space, from one row per layer.

    Args:
        frame: rows of `query`, one per model × recipe × layer × sublayer × lens.
        quantity: as of `query`.

    Returns:
        The panel's name, layer, space, mean, p10 and p90. `run` numbers the series of consecutive layers of a panel,
        so that no line crosses layers that the recipe left unchanged; `is_alone` marks a series of one layer.
    """
    key = ["model", "recipe", "sublayer", "lens"]
    sublayer = pl.col("sublayer").cast(pl.String).replace(theme.SUBLAYER_TITLES)
    named = (
        theme.with_variant(frame)
        .sort(*key, "layer", maintain_order=True)
        .with_columns(
            pl.concat_str(sublayer, "variant", separator=" · ").alias("panel"),
            (pl.col("layer").cast(pl.Int32).diff().over(key).fill_null(1) != 1).cum_sum().over(key).alias("run"),
        )
        .with_columns((pl.len().over([*key, "run"]) == 1).alias("is_alone"))
    )
    titles = {f"{quantity}_{space}": title for space, title in theme.SPACE_TITLES.items()}
    return theme.stacked(named, ["panel", "layer", "run", "is_alone", "positions"], "space", titles, PARTS)


def draw(long: pl.DataFrame, y: alt.Y, title: alt.TitleParams) -> theme.AnyChart:
    """Draw the mean of each space as a line and p10 to p90 as a band, one panel per variant and sublayer.

    Args:
        long: rows of `by_space`.
        y: title, scale and axis of the values.
        title: title of the chart.
    """
    axis = {name: y[name] for name in ("scale", "axis", "title")}
    titles = theme.SPACE_TITLES.values()
    base = theme.Chart().encode(
        x=theme.whole_axis("layer", "layer", long["layer"]),
        color=theme.nominal(alt.Color, "space", titles, theme.SPACE_COLORS, legend=_LEGEND),
        detail=alt.Detail("run:N"),
    )
    spread = {"y": alt.Y("p10:Q", **axis), "y2": alt.Y2("p90:Q")}
    band = base.mark_area(opacity=0.16).encode(**spread)
    # An area or line of one layer, such as a dropped sublayer, has no extent: a bar shows its spread.
    alone = base.transform_filter("datum.is_alone").mark_rule(opacity=0.4, strokeWidth=2).encode(**spread)
    mean = alt.Y("mean:Q", **axis)
    # z often coincides with h, which the gaps between the dashes show.
    dashes = theme.nominal(alt.StrokeDash, "space", titles, [[1, 0], [5, 4], [1, 0]], legend=_LEGEND)
    line = base.mark_line(strokeWidth=1.8).encode(y=mean, strokeDash=dashes)
    # Shapes tell the spaces apart without colour.
    point = base.mark_point(size=16, filled=True, opacity=1).encode(
        y=mean,
        shape=theme.nominal(alt.Shape, "space", titles, theme.SPACE_SHAPES, legend=_LEGEND),
        tooltip=theme.tooltip("panel:N", "layer:Q", "space:N", "mean:Q", "p10:Q", "p90:Q", "positions:Q"),
    )
    order = sorted(theme.names(long, "panel"), key=lambda panel: panel.startswith(theme.SUBLAYER_TITLES["mlp"]))
    return theme.themed(
        alt.layer(band, alone, line, point, data=theme.rows(long))
        .properties(width=255, height=130)
        .facet(facet=alt.Facet("panel:N", title=None, sort=order), columns=min(3, len(order)), title=title)
        .resolve_axis(x="independent")  # below an incomplete row a shared axis would be far from its panels
    )
