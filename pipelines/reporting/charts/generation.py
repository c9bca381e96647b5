"""h, z, p and KL along the generation on the dense text, the own text and the fork, for every recipe.

The paper's Figure 5 shows only free running, without a null.
"""

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme

TITLE = "From hidden state to KL along the generation"
CAPTION = (
    "Distance of each variant from the dense model at each generated token: 1 − cos in h, z and p, and KL(dense ‖ "
    "pruned) in nats. The axes are linear below 0.001 and logarithmic above, so that zeros show. Dense text: both "
    "models read what the dense model wrote. Own text: both read what the variant wrote. The fork is the null, the "
    "dense model alone: its text is compared with the text that it writes after the variant's first different token. "
    "Free running: each model reads its own text. This compares two texts, so only an excess over the fork has a "
    "meaning. Lines are medians over prompts. The bands of the first two run from the 10th to the 90th percentile. "
    "Marks above a panel show the steps at which texts first differ, and at which the variant completes its answer. "
    "Neighbouring steps of a model with more than 64 generated tokens share a point: at most 64 are drawn, or 16 for "
    "more than 12 variants."
)

TRAJECTORIES = {
    "teacher_forced": "dense text",
    "own_text": "own text",
    "fork": "fork (dense alone)",
    "free_running": "free running",
}
_COLORS = dict(zip(TRAJECTORIES.values(), (theme.BLUE, theme.VERMILLION, theme.GREY, theme.ORANGE), strict=True))
_DASHES = dict(zip(TRAJECTORIES.values(), ([4, 2], [1, 0], [1, 0], [1.5, 2.5]), strict=True))
_WITH_BAND = [TRAJECTORIES["teacher_forced"], TRAJECTORIES["own_text"]]
QUANTITIES = {
    "one_minus_cos_h": "hidden state\n1 − cos h",
    "one_minus_cos_z": "logits\n1 − cos z",
    "one_minus_cos_p": "probabilities\n1 − cos p",
    "kl": "KL\nnats",
}
EVENTS = {"prompts_flipping": "first flipped token", "prompts_answered": "answer complete"}


def quantity_column(padding: int) -> alt.Column:
    """Return a column of panels per quantity, whose heading names the quantity and its unit instead of the axis."""
    header = alt.Header(labelPadding=padding, labelExpr="split(datum.value, '\\n')")
    return alt.Column("quantity:N", title=None, sort=list(QUANTITIES.values()), header=header)


def trajectory_color(curves: pl.DataFrame) -> alt.Color:
    """Return the colour by trajectory, the same in every figure; the legend names the trajectories of the rows."""
    legend = alt.Legend(symbolOpacity=1, symbolType="stroke", symbolStrokeWidth=2.5, symbolSize=200)
    drawn = _drawn(curves)
    return theme.nominal(alt.Color, "trajectory", drawn, [_COLORS[name] for name in drawn], legend=legend)


def trajectory_dash(curves: pl.DataFrame) -> alt.StrokeDash:
    """Return dashes by trajectory, which distinguish the trajectories without colour."""
    drawn = _drawn(curves)
    return theme.nominal(alt.StrokeDash, "trajectory", drawn, [_DASHES[name] for name in drawn])


def _drawn(curves: pl.DataFrame) -> list[str]:
    return [name for name in TRAJECTORIES.values() if name in theme.names(curves, "trajectory")]


def distance_axis() -> tuple[alt.Scale, alt.Axis]:
    """Return one scale and axis for 1 − cos and nats: linear below 0.001, logarithmic above."""
    ticks = [0, 0.001, 0.01, 0.1, 1, 10, 100]
    return (
        alt.Scale(type="symlog", constant=0.001, domainMin=0, nice=False),
        alt.Axis(values=ticks, labelExpr=theme.powers_of_ten(ticks)),
    )


def _events(curves: pl.DataFrame) -> pl.DataFrame:
    return (
        curves.unpivot(on=list(EVENTS), index=["variant", "step"], variable_name="event", value_name="events")
        .filter(pl.col("events") > 0)
        .with_columns(pl.col("event").replace(EVENTS))
        .join(pl.DataFrame({"quantity": list(QUANTITIES.values())}), how="cross")
    )


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draw one row per model × recipe × trajectory × step: a row of panels per variant, a column per quantity."""
    if frame.is_empty():
        return theme.no_data(TITLE, "no variant generated a token")
    curves = theme.with_variant(frame).with_columns(pl.col("trajectory").cast(pl.String).replace(TRAJECTORIES))
    keep = ["variant", "trajectory", "step", "prompts"]
    points = theme.stacked(curves, keep, "quantity", QUANTITIES, ("median", "p10", "p90"))
    data = pl.concat([points, _events(curves)], how="diagonal_relaxed")
    x = theme.whole_axis("step", "step", curves["step"])
    scale, axis = distance_axis()
    # Vega draws a missing value of a line as a gap, but of a band or point as 0, so each layer filters its rows.
    base = theme.Chart().encode(x=x, color=trajectory_color(curves))
    banded = alt.FieldOneOfPredicate(field="trajectory", oneOf=_WITH_BAND)
    band = (
        base.transform_filter(banded)
        .mark_area(opacity=0.18)
        .encode(y=alt.Y("p10:Q", scale=scale, axis=axis, title=None), y2=alt.Y2("p90:Q"))
    )
    drawn = base.transform_filter("isValid(datum.trajectory)")
    line = drawn.mark_line(strokeWidth=1.6, point=alt.OverlayMarkDef(size=7)).encode(
        y=alt.Y("median:Q", scale=scale, axis=axis, title=None),
        strokeDash=trajectory_dash(curves),
        tooltip=theme.tooltip(
            "variant:N", "quantity:N", "trajectory:N", "step:Q", "median:Q", "p10:Q", "p90:Q", "prompts:Q"
        ),
    )
    # One row per event above the panel, because both can occur at one step.
    marks = [
        theme.Chart()
        .transform_filter(alt.datum.event == event)
        .mark_point(filled=True, size=36, opacity=0.9, style="ink")
        .encode(
            x=x,
            y=alt.value(height),
            shape=theme.nominal(alt.Shape, "event", EVENTS.values(), ["triangle-down", "square"]),
            tooltip=[*theme.tooltip("variant:N", "event:N", "step:Q"), alt.Tooltip("events:Q", title="prompts")],
        )
        for event, height in zip(EVENTS.values(), (-5, -13), strict=True)
    ]
    names = theme.row_names(next(iter(QUANTITIES.values())), above=19)
    return theme.themed(
        alt.layer(band, line, *marks, names, data=theme.rows(data))
        .properties(width=150, height=85)
        .facet(
            row=theme.variant_row(curves),
            column=quantity_column(padding=42),
            bounds="flush",  # so that a long name above a panel does not move the panels
            spacing=alt.RowColnumber(row=42, column=36),
            title=theme.title(TITLE, _subtitle(frame)),
        )
        .resolve_axis(y="independent")  # one unit per axis
    )


def _subtitle(frame: pl.DataFrame) -> str:
    prompts, stride = (int(frame[column].max()) for column in ("prompts", "stride"))  # type: ignore[arg-type]
    parts = [theme.models(frame), theme.prompts(prompts), theme.temperatures(frame)]
    return " · ".join([*parts, f"{stride} steps a point"] if stride > 1 else parts)
