"""Shift of p at each temperature of the softmax: the paper's Figure 6, for every recipe."""

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

QUANTITIES = {name: generation.QUANTITIES[name] for name in ("one_minus_cos_p", "kl")}
_TOOLTIP = theme.tooltip(
    "variant:N", "quantity:N", "trajectory:N", "temperature:Q", "median:Q", "p10:Q", "p90:Q", "tokens:Q"
)


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draw one row per model × recipe × trajectory × temperature."""
    if frame.is_empty():
        return theme.no_data(TITLE, "no variant generated a token")
    named = theme.with_variant(frame).with_columns(
        pl.col("trajectory").cast(pl.String).replace(generation.TRAJECTORIES)
    )
    keep = ["variant", "trajectory", "temperature", "tokens"]
    data = theme.stacked(named, keep, "quantity", QUANTITIES, ("median", "p10", "p90"))
    return _dots(data, frame) if data["temperature"].n_unique() == 1 else _curves(data, frame)


def _curves(data: pl.DataFrame, frame: pl.DataFrame) -> theme.AnyChart:
    scale, axis = generation.distance_axis()
    x = alt.X(
        "temperature:Q",
        title="temperature T",
        scale=alt.Scale(zero=False, nice=False, padding=10),
        # The axis's own format rounds 1.5 to 2 if only few ticks fit.
        axis=alt.Axis(values=sorted(data["temperature"].unique()), labelExpr="format(datum.value, '~g')", grid=False),
    )
    base = theme.Chart().encode(x=x, color=generation.trajectory_color(data))
    spread = base.mark_rule(opacity=0.45, strokeWidth=1.5).encode(
        y=alt.Y("p10:Q", scale=scale, axis=axis, title=None), y2=alt.Y2("p90:Q")
    )
    line = base.mark_line(strokeWidth=1.6, point=alt.OverlayMarkDef(size=26)).encode(
        y=alt.Y("median:Q", scale=scale, axis=axis, title=None),
        strokeDash=generation.trajectory_dash(data),
        tooltip=_TOOLTIP,
    )
    names = theme.row_names(next(iter(QUANTITIES.values())), above=3)
    return theme.themed(
        alt.layer(spread, line, names, data=theme.rows(data))
        .properties(width=250, height=95)
        .facet(
            row=theme.variant_row(data),
            column=generation.quantity_column(padding=20),
            bounds="flush",  # so that a long name above a panel does not move the panels
            spacing=alt.RowColnumber(row=24, column=38),
            title=theme.title(TITLE, theme.models(frame)),
        )
        .resolve_axis(y="independent")  # one unit per axis
    )


def _dots(data: pl.DataFrame, frame: pl.DataFrame) -> theme.AnyChart:
    scale, axis = generation.distance_axis()
    order = theme.names(data, "variant")
    base = theme.Chart().encode(
        y=alt.Y("variant:N", title=None, sort=order),
        yOffset=alt.YOffset("trajectory:N", sort=list(generation.TRAJECTORIES.values())),
        color=generation.trajectory_color(data),
    )
    spread = base.mark_rule(opacity=0.45, strokeWidth=1.5).encode(
        x=alt.X("p10:Q", scale=scale, axis=axis, title=None), x2=alt.X2("p90:Q")
    )
    point = base.mark_point(filled=True, size=34, opacity=1).encode(
        x=alt.X("median:Q", scale=scale, axis=axis, title=None), tooltip=_TOOLTIP
    )
    subtitle = f"{theme.models(frame)} · one temperature was measured: {theme.temperatures(frame)}"
    return theme.themed(
        alt.layer(spread, point, data=theme.rows(data))
        .properties(width=300, height=alt.Step(11))
        .facet(column=generation.quantity_column(padding=2), spacing=14, title=theme.title(TITLE, subtitle))
    )
