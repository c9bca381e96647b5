"""Chart of how well local logit shifts predict KL spikes by relative depth, one line per model (q42)."""

from functools import partial
from typing import cast

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import method_encoding, theme
from prunescope.pipelines.reporting.charts.display_text import label

TITLE = "Where in the network a logit shift foretells a KL spike"
CAPTION = (
    "Above: how well a sublayer's Var_p(Δz), measured alone, ranks KL spikes at the output before other positions, "
    "against the sublayer's place among the layers. The measure is the area under the ROC curve; 0.5, the grey line, "
    "is chance. Bands are 95 % intervals over prompts, if every variant has one. Below: the Var_p(Δz) above which a "
    "position is among the tenth with the largest. Both are means over the variants that change every sublayer, per "
    "model those whose recipes most other models also have."
)
NEEDS = "no variant that changes every sublayer has three KL spikes and local measurements"

_SHAPES = ["circle", "triangle-up", "square", "diamond"]
_NUMBERS = "layer auc auc_low auc_high top_decile_var_p_dz"


def _panels(rows: pl.DataFrame, y: alt.Y, *behind: alt.Chart) -> theme.AnyChart:
    """Return a panel per sublayer with a line per model in front of other layers."""
    order = theme.names(rows, "model")
    colors, shapes = ([of[index % len(of)] for index in range(len(order))] for of in (theme.CATEGORIES, _SHAPES))
    point = theme.Chart().mark_point(filled=True, size=24, opacity=1)
    layers = alt.layer(
        *behind,
        theme.Chart().mark_line(strokeWidth=1.6).encode(y=y),
        point.encode(
            y=y,
            shape=theme.nominal(alt.Shape, "model", order, shapes, legend=theme.POINTS),
            tooltip=theme.tooltip(f"model:N sublayer:N {_NUMBERS}"),
        ),
        data=theme.rows(rows.select("model", "sublayer", "relative_depth", *_NUMBERS.split())),
    ).encode(
        x=alt.X("relative_depth:Q", title="depth, first to last layer", scale=alt.Scale(domain=[0, 1], padding=6)),
        color=theme.nominal(alt.Color, "model", order, colors, legend=theme.POINTS),
    )
    sublayer = alt.Column("sublayer:N", title=None, sort=list(theme.SUBLAYER_TITLES.values()))
    return cast(theme.AnyChart, layers.properties(width=300, height=150).facet(column=sublayer))


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw rows of one lens: a column per sublayer, a line per model."""
    rows = method_encoding.labelled(frame, "model").with_columns(
        pl.col("sublayer").cast(pl.String).replace(theme.SUBLAYER_TITLES)
    )
    y = partial(alt.Y, title="area under the ROC curve", scale=alt.Scale(domain=[0, 1]))
    chance = theme.Chart().mark_line(strokeDash=[4, 3]).encode(y=alt.datum(0.5), color=alt.value(theme.GREY))
    has_bands = bool(rows["auc_low"].count())
    band = theme.valid(theme.Chart(), "auc_low").mark_area(opacity=0.14)
    bands = [band.encode(**theme.span(y("auc_low:Q"), "auc_high:Q"))] if has_bands else []
    parts = [_panels(rows, y("auc:Q"), chance, *bands)]
    if (positive := rows.filter(theme.has_logarithm("top_decile_var_p_dz"))).height:
        scale, axis = theme.decades(*theme.extent(positive["top_decile_var_p_dz"]))
        title = "Var_p(Δz) of the largest tenth"
        parts.append(_panels(positive, alt.Y("top_decile_var_p_dz:Q", title=title, scale=scale, axis=axis)))
    groups = rows.group_by("recipes", maintain_order=True).agg(pl.col("model").unique(maintain_order=True))
    means = [
        f"means over {label(recipes, 90)} · {label(', '.join(names), 90)}" for recipes, names in groups.iter_rows()
    ]
    without = "" if has_bands else "no intervals: fewer than three prompts with spikes"
    return alt.vconcat(*parts), [theme.about(frame, "lens"), *means, without]
