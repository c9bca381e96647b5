"""How well local logit shifts predict KL spikes by relative depth, a line per model (q42_depth_of_predictors)."""

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.display_text import label

TITLE = "Where in the network a logit shift foretells a KL spike"
CAPTION = (
    "Above, how well a sublayer's Var_p(Δz), measured alone, ranks KL spikes at the output before other positions "
    "(area under the ROC curve; 0.5, the grey line, is chance), against the sublayer's place among the layers. Bands "
    "are 95 % intervals over prompts, where every variant has one. Below, the Var_p(Δz) from which on a position is "
    "among the tenth with the largest. Both are means over the variants that change every sublayer, of each model "
    "those whose recipes most other models have too."
)

_SHAPES = ["circle", "triangle-up", "square", "diamond"]
_WIDTH, _HEIGHT = 300, 150


def _panels(rows: pl.DataFrame, y: alt.Y, *above: alt.Chart, band: str | None = None) -> theme.AnyChart:
    """Return a row of panels, one per sublayer, with a line per model; `band` is the prefix of the ends of a band."""
    order = theme.names(rows, "model")
    legend = alt.Legend(symbolOpacity=1, symbolSize=70)
    axis = {name: y[name] for name in ("title", "scale", "axis")}
    shapes = (_SHAPES[index % len(_SHAPES)] for index, _ in enumerate(order))
    colors = (theme.CATEGORIES[index % len(theme.CATEGORIES)] for index, _ in enumerate(order))
    base = theme.Chart().encode(
        x=alt.X(
            "relative_depth:Q",
            title="depth: first layer 0, last layer 1",
            scale=alt.Scale(domain=[0, 1], padding=6),
            axis=alt.Axis(tickCount=5),
        ),
        color=theme.nominal(alt.Color, "model", order, colors, legend=legend),
    )
    fields = ("layer", "auc", "auc_low", "auc_high", "top_decile_lift", "top_decile_var_p_dz", "n_variants")
    line = base.mark_line(strokeWidth=1.6).encode(y=y)
    point = base.mark_point(filled=True, size=24, opacity=1).encode(
        y=y,
        shape=theme.nominal(alt.Shape, "model", order, shapes, legend=legend),
        tooltip=theme.tooltip("model:N", "sublayer:N", *(f"{name}:Q" for name in fields)),
    )
    bands = []
    if band:
        ends = {"y": alt.Y(f"{band}_low:Q", **axis), "y2": alt.Y2(f"{band}_high:Q")}
        bands = [base.transform_filter(f"isValid(datum.{band}_low)").mark_area(opacity=0.14).encode(**ends)]
    faceted: theme.AnyChart = (
        alt.layer(
            *above, *bands, line, point, data=theme.rows(rows.select("model", "sublayer", "relative_depth", *fields))
        )
        .properties(width=_WIDTH, height=_HEIGHT)
        .facet(column=alt.Column("sublayer:N", title=None, sort=list(theme.SUBLAYER_TITLES.values())))
    )
    return faceted


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draw rows of one lens: a column per sublayer, a line per model."""
    if frame.is_empty():
        return theme.no_data(TITLE, "no variant that changes every sublayer has three KL spikes and local measurements")
    rows = frame.with_columns(
        pl.col("model").cast(pl.String).replace_strict(theme.distinct_labels(frame["model"].cast(pl.String))),
        pl.col("sublayer").cast(pl.String).replace(theme.SUBLAYER_TITLES),
    )
    chance = (
        theme.Chart()
        .transform_aggregate(rows="count()", groupby=["sublayer"])
        .mark_rule(strokeDash=[4, 3], strokeWidth=1, color=theme.GREY)
        .encode(y=alt.datum(0.5))
    )
    area = alt.Y("auc:Q", title="area under the ROC curve", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    parts = [_panels(rows, area, chance, band="auc" if rows["auc_low"].count() else None)]
    positive = rows.filter(theme.has_logarithm("top_decile_var_p_dz"))
    if positive.height:
        scale, axis = theme.decades(*theme.extent(positive["top_decile_var_p_dz"]))
        title = "Var_p(Δz) of the largest tenth"
        parts.append(_panels(positive, alt.Y("top_decile_var_p_dz:Q", title=title, scale=scale, axis=axis)))
    groups = rows.group_by("recipes", maintain_order=True).agg(pl.col("model").unique(maintain_order=True))
    means = [
        f"means over {label(recipes, 90)} · {label(', '.join(models), 90)}" for recipes, models in groups.iter_rows()
    ]
    without = "" if frame["auc_low"].count() else "no intervals: fewer than three prompts with spikes"
    title = theme.title(TITLE, f"lens {frame['lens'][0]}", *means, without)
    return theme.themed(alt.vconcat(*parts, title=title))
