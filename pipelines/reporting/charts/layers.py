"""What the two charts over the layers share: means with their spread by space, a panel per variant and sublayer.

Which quantity it is and how its axis runs belongs to `hierarchy` and `amplification`.
"""

from collections.abc import Sequence
from typing import TypeVar

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts.theme import (
    SPACE_COLORS,
    SPACE_SHAPES,
    SPACE_TITLES,
    SPACES,
    SUBLAYER_TITLES,
    AnyChart,
    Chart,
    rows,
    themed,
    tooltip,
    whole_axis,
    with_variant,
)

QUERY = """\
select model, recipe, layer, sublayer, scope, lens, temperature, positions,
       {columns}
from layer_summary
semi join reference_temperature using (model, recipe, temperature)
where is_changed and scope = 'local'
order by model, lens desc, recipe, sublayer, layer"""

_Channel = TypeVar("_Channel", alt.Color, alt.Shape, alt.StrokeDash)

# The bands are pale, the legend is not.
_LEGEND = alt.Legend(symbolOpacity=1, symbolSize=70)


def by_space(frame: pl.DataFrame, values: dict[str, str]) -> pl.DataFrame:
    """One row per layer and space, from one row per layer.

    Args:
        frame: rows of `layer_summary`, one per model × recipe × layer × sublayer × lens.
        values: new column → old column with `{}` in the place of the space's letter.

    Returns:
        The panel's name, layer, space and the values. `run` numbers the unbroken series of layers of a panel,
        so that no line crosses layers that the recipe left alone; `is_alone` says that a series is one layer long.
    """
    key = ["model", "recipe", "sublayer", "lens"]
    named = (
        with_variant(frame)
        .sort(*key, "layer", maintain_order=True)
        .with_columns(
            (pl.col("sublayer").cast(pl.String).replace(SUBLAYER_TITLES) + " · " + pl.col("variant")).alias("panel"),
            (pl.col("layer").cast(pl.Int32).diff().over(key).fill_null(1) != 1).cum_sum().over(key).alias("run"),
        )
        .with_columns((pl.len().over([*key, "run"]) == 1).alias("is_alone"))
    )
    return pl.concat(
        named.select(
            "panel",
            "layer",
            "run",
            "is_alone",
            "positions",
            pl.lit(SPACE_TITLES[space]).alias("space"),
            *(pl.col(old.format(space)).cast(pl.Float64).alias(new) for new, old in values.items()),
        )
        for space in SPACES
    )


def draw(long: pl.DataFrame, y: alt.Y, title: alt.TitleParams) -> AnyChart:
    """Lines through the means of each space with bands from p10 to p90, one panel per variant and sublayer.

    Args:
        long: rows of `by_space` with the values mean, p10 and p90.
        y: title, scale and axis of the values.
        title: of the whole.
    """
    axis = {name: y[name] for name in ("scale", "axis", "title")}
    color = _by_space(alt.Color, SPACE_COLORS)
    base = Chart().encode(x=whole_axis("layer", "layer", long["layer"]), color=color, detail=alt.Detail("run:N"))
    spread = {"y": alt.Y("p10:Q", **axis), "y2": alt.Y2("p90:Q")}
    band = base.mark_area(opacity=0.16).encode(**spread)
    # A dropped sublayer stands alone, and an area or line of one layer has no extent: a bar shows its spread.
    alone = base.transform_filter("datum.is_alone").mark_rule(opacity=0.4, strokeWidth=2).encode(**spread)
    # z often coincides with h, which then shows through the gaps of its dashes.
    mean = alt.Y("mean:Q", **axis)
    dashes = _by_space(alt.StrokeDash, [[1, 0], [5, 4], [1, 0]])
    line = base.mark_line(strokeWidth=1.8).encode(y=mean, strokeDash=dashes)
    # Colour is not the only sign.
    point = base.mark_point(size=16, filled=True, opacity=1).encode(
        y=mean,
        shape=_by_space(alt.Shape, SPACE_SHAPES),
        tooltip=tooltip("panel:N", "layer:Q", "space:N", "mean:Q", "p10:Q", "p90:Q", "positions:Q"),
    )
    order = long["panel"].unique(maintain_order=True).to_list()
    order.sort(key=lambda panel: panel.startswith(SUBLAYER_TITLES["mlp"]))  # attention panels first
    return themed(
        alt.layer(band, alone, line, point, data=rows(long))
        .properties(width=255, height=130)
        .facet(facet=alt.Facet("panel:N", title=None, sort=order), columns=min(3, len(order)), title=title)
        .resolve_axis(x="independent")  # a shared axis would hang below the gaps of an unfinished row
    )


def _by_space(channel: type[_Channel], values: Sequence[str] | Sequence[list[int]]) -> _Channel:
    """A channel by space, the same in both charts."""
    titles = [SPACE_TITLES[space] for space in SPACES]
    return channel("space:N", title=None, scale=alt.Scale(domain=titles, range=[*values]), legend=_LEGEND)
