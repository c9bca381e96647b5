"""What the two charts over the layers share: long rows, one panel per variant and sublayer, unbroken runs.

The marks belong to `hierarchy` and `amplification`.
"""

import altair as alt
import polars as pl

from pipelines.charts.theme import SPACE_COLORS, SPACE_SHAPES, SPACE_TITLES, SPACES, SUBLAYER_TITLES, with_variant

QUERY = """\
select model, recipe, layer, sublayer, scope, lens, temperature, positions,
       {columns}
from layer_summary
semi join reference_temperature using (model, recipe, temperature)
where is_changed and scope = 'local'
order by model, lens desc, recipe, sublayer, layer"""


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
            (pl.col("variant") + " · " + pl.col("sublayer").cast(pl.String).replace(SUBLAYER_TITLES)).alias("panel"),
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


def space_color() -> alt.Color:
    """Colour by space, the same in both charts."""
    titles = [SPACE_TITLES[space] for space in SPACES]
    return alt.Color("space:N", title=None, scale=alt.Scale(domain=titles, range=SPACE_COLORS), legend=_LEGEND)


def space_shape() -> alt.Shape:
    """Shape by space, so that colour is not the only sign."""
    titles = [SPACE_TITLES[space] for space in SPACES]
    return alt.Shape("space:N", title=None, scale=alt.Scale(domain=titles, range=SPACE_SHAPES), legend=_LEGEND)


def space_dash() -> alt.StrokeDash:
    """Dashes for z, which often coincides with h: h then shows through the gaps."""
    titles = [SPACE_TITLES[space] for space in SPACES]
    dashes = [[1, 0], [5, 4], [1, 0]]
    return alt.StrokeDash("space:N", title=None, scale=alt.Scale(domain=titles, range=dashes), legend=_LEGEND)


def panels(frame: pl.DataFrame) -> tuple[alt.Facet, int]:
    """The facet over panels in the order of the rows, attention panels first, and how many stand side by side."""
    order = frame["panel"].unique(maintain_order=True).to_list()
    order.sort(key=lambda panel: panel.endswith(SUBLAYER_TITLES["mlp"]))
    return alt.Facet("panel:N", title=None, sort=order), min(3, len(order))
