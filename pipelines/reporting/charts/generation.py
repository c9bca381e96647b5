"""h, z, p and KL along the generation on the dense text, the own text and the fork, for every recipe.

The paper's Figure 5 shows only free running, without a null.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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
NEEDS = "no variant generated a token"

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
_TICKS = [0, 0.001, 0.01, 0.1, 1, 10, 100]
# Keys of a channel of 1 − cos or nats. The heading of a panel names the quantity and its unit, the axis does not.
DISTANCE: dict[str, Any] = {
    "title": None,
    "scale": alt.Scale(type="symlog", constant=0.001, domainMin=0, nice=False),
    "axis": alt.Axis(values=_TICKS, labelExpr=theme.powers_of_ten(_TICKS)),
}


def quantity_column(padding: int, quantities: Iterable[str] = QUANTITIES.values()) -> alt.Column:
    """Return a column of panels per quantity, whose heading names the quantity and its unit."""
    header = alt.Header(labelPadding=padding, labelExpr="split(datum.value, '\\n')")
    return alt.Column("quantity:N", title=None, sort=list(quantities), header=header)


def by_trajectory(curves: pl.DataFrame) -> tuple[alt.Color, alt.StrokeDash]:
    """Return the colour and dashes by trajectory, the same in every figure; the legend names those of the rows."""
    drawn = [name for name in TRAJECTORIES.values() if name in theme.names(curves, "trajectory")]
    color = theme.nominal(alt.Color, "trajectory", drawn, map(_COLORS.get, drawn), legend=theme.LINES)
    return color, theme.nominal(alt.StrokeDash, "trajectory", drawn, map(_DASHES.get, drawn))


def medians(curves: pl.DataFrame, keep: Sequence[str], quantities: Mapping[str, str] = QUANTITIES) -> pl.DataFrame:
    """Return one row per row and quantity, with its median and its 10th and 90th percentile."""
    return theme.stacked(curves, keep, "quantity", quantities, ("median", "p10", "p90"))


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw one row per model × recipe × trajectory × step: a row of panels per variant, a column per quantity."""
    curves = theme.with_variant(frame).with_columns(pl.col("trajectory").cast(pl.String).replace(TRAJECTORIES))
    points = medians(curves, ["variant", "trajectory", "step", "prompts"])
    events = (
        curves.unpivot(on=list(EVENTS), index=["variant", "step"], variable_name="event", value_name="events")
        .filter(pl.col("events") > 0)
        .with_columns(pl.col("event").replace(EVENTS))
        .join(pl.DataFrame({"quantity": list(QUANTITIES.values())}), how="cross")
    )
    data = pl.concat([points, events], how="diagonal_relaxed")
    x = theme.whole_axis("step", "step", curves["step"])
    color, dash = by_trajectory(curves)
    # Vega draws a missing value of a line as a gap, but of a band or point as 0, so each layer filters its rows.
    base = theme.Chart().encode(x=x, color=color)
    banded = base.transform_filter(alt.FieldOneOfPredicate(field="trajectory", oneOf=_WITH_BAND))
    line = theme.valid(base, "trajectory").mark_line(strokeWidth=1.6, point=alt.OverlayMarkDef(size=7))
    # One row per event above the panel, because both can occur at one step.
    marks = [
        theme.Chart()
        .transform_filter(alt.datum.event == event)
        .mark_point(filled=True, size=36, opacity=0.9, style="ink")
        .encode(
            x=x,
            y=alt.value(height),
            shape=theme.nominal(alt.Shape, "event", EVENTS.values(), ["triangle-down", "square"]),
            tooltip=[*theme.tooltip("variant:N event:N step"), alt.Tooltip("events:Q", title="prompts")],
        )
        for event, height in zip(EVENTS.values(), (-5, -13), strict=True)
    ]
    chart = alt.layer(
        banded.mark_area(opacity=0.18).encode(**theme.span(alt.Y("p10:Q", **DISTANCE), "p90:Q")),
        line.encode(
            y=alt.Y("median:Q", **DISTANCE),
            strokeDash=dash,
            tooltip=theme.tooltip("variant:N quantity:N trajectory:N step median p10 p90 prompts"),
        ),
        *marks,
        theme.row_names(next(iter(QUANTITIES.values())), above=19),
        data=theme.rows(data),
    ).properties(width=150, height=85)
    grid = theme.variant_grid(chart, curves, quantity_column(padding=42), 42, 36)
    stride = theme.largest(frame, "stride")
    about = theme.about(frame, "model prompts temperature", f"{stride} steps per point" if stride > 1 else "")
    return grid.resolve_axis(y="independent"), [about]  # one unit per axis
