"""Shift of p at each temperature of the softmax: the paper's Figure 6, for every recipe."""

from typing import Any, cast

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import generation, theme

TITLE = "Divergence against the temperature of the softmax"
CAPTION = (
    "1 − cos between the dense and the pruned distribution, and KL(dense ‖ pruned), at each measured temperature T. "
    "Points are medians over all prompts and generated tokens; bars run from the 10th to the 90th percentile. The "
    "means, which a few large values raise, are in q26. A higher T flattens both distributions, so that every "
    "divergence tends to 0. h and z do not depend on T. A study with one temperature shows its variants below each "
    "other."
)
NEEDS = "no variant generated a token"

QUANTITIES = {name: generation.QUANTITIES[name] for name in ("one_minus_cos_p", "kl")}
_TOOLTIP = theme.tooltip("variant:N quantity:N trajectory:N temperature median p10 p90 tokens")
_SPREAD: dict[str, Any] = {"opacity": 0.45, "strokeWidth": 1.5}


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw one row per model × recipe × trajectory × temperature."""
    trajectory = pl.col("trajectory").cast(pl.String).replace(generation.TRAJECTORIES)
    named = theme.with_variant(frame).with_columns(trajectory)
    data = generation.medians(named, ["variant", "trajectory", "temperature", "tokens"], QUANTITIES)
    if data["temperature"].n_unique() > 1:
        return _curves(data), [theme.about(frame)]
    one = f"one temperature was measured: {theme.about(frame, 'temperature')}"
    return _dots(data), [theme.about(frame, "model", one)]


def _curves(data: pl.DataFrame) -> theme.AnyChart:
    x = alt.X(
        "temperature:Q",
        title="temperature T",
        scale=alt.Scale(zero=False, nice=False, padding=10),
        # The axis's own format rounds 1.5 to 2 if only few ticks fit.
        axis=alt.Axis(values=sorted(data["temperature"].unique()), labelExpr="format(datum.value, '~g')", grid=False),
    )
    color, dash = generation.by_trajectory(data)
    base = theme.Chart().encode(x=x, color=color)
    low, median = (alt.Y(f"{field}:Q", **generation.DISTANCE) for field in ("p10", "median"))
    line = base.mark_line(strokeWidth=1.6, point=alt.OverlayMarkDef(size=26))
    chart = alt.layer(
        base.mark_rule(**_SPREAD).encode(**theme.span(low, "p90:Q")),
        line.encode(y=median, strokeDash=dash, tooltip=_TOOLTIP),
        theme.row_names(next(iter(QUANTITIES.values())), above=3),
        data=theme.rows(data),
    ).properties(width=250, height=95)
    grid = theme.variant_grid(chart, data, generation.quantity_column(20), 24, 38)
    return cast(theme.AnyChart, grid.resolve_axis(y="independent"))  # one unit per axis


def _dots(data: pl.DataFrame) -> theme.AnyChart:
    base = theme.Chart().encode(
        y=alt.Y("variant:N", title=None, sort=theme.names(data, "variant")),
        yOffset=alt.YOffset("trajectory:N", sort=list(generation.TRAJECTORIES.values())),
        color=generation.by_trajectory(data)[0],
    )
    low, median = (alt.X(f"{field}:Q", **generation.DISTANCE) for field in ("p10", "median"))
    chart = alt.layer(
        base.mark_rule(**_SPREAD).encode(**theme.span(low, "p90:Q")),
        base.mark_point(filled=True, size=34, opacity=1).encode(x=median, tooltip=_TOOLTIP),
        data=theme.rows(data),
    ).properties(width=300, height=alt.Step(11))
    dots: theme.AnyChart = chart.facet(column=generation.quantity_column(2), spacing=14)
    return dots
