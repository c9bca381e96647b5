"""KL along the generation: teacher-forced beside free-running, one panel per recipe.

The median over prompts is formed by the query, not here.
"""

import altair as alt
import polars as pl

from pipelines.charts import theme

TITLE = "KL along the generation"
CAPTION = (
    "Divergence from the dense model at each generated token: teacher forced, both models read the dense tokens; free "
    "running, each reads its own, so that the distance grows by feedback. Lines are medians over prompts, bands run "
    "from the 10th to the 90th percentile; the axis is linear below 0.01 nats and logarithmic above, so that zeros "
    "show. Marks say at which steps prompts first leave the dense text, and at which the first of the two models "
    "completes its answer. At most 256 steps."
)
QUERY = """\
select model, recipe, temperature, trajectory, step,
       median(kl_dense_pruned_nats) as kl_median_nats,
       quantile_cont(kl_dense_pruned_nats, 0.1) as kl_p10_nats,
       quantile_cont(kl_dense_pruned_nats, 0.9) as kl_p90_nats,
       count(*) as prompts,
       count(*) filter (where trajectory = 'free_running' and first_flip_step = step) as prompts_flipping,
       count(*) filter (where trajectory = 'free_running' and answer_end_step = step) as prompts_answered
from decoding_curve
semi join reference_temperature using (model, recipe, temperature)
where recipe <> 'dense' and step < 256
group by model, recipe, temperature, trajectory, step
order by model, recipe, trajectory desc, step"""

TRAJECTORIES = {"teacher_forced": "teacher forced", "free_running": "free running"}
EVENTS = {"prompts_flipping": "first flipped token", "prompts_answered": "answer complete"}


def _events(frame: pl.DataFrame) -> pl.DataFrame:
    return (
        frame.unpivot(on=list(EVENTS), index=["variant", "step"], variable_name="event", value_name="events")
        .filter(pl.col("events") > 0)
        .with_columns(pl.col("event").replace(EVENTS))
    )


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draws one row per model × recipe × trajectory × step with the median and spread of KL over prompts."""
    if frame.is_empty():
        return theme.no_data(TITLE, "no variant generated a token")
    curves = theme.with_variant(frame).with_columns(pl.col("trajectory").cast(pl.String).replace(TRAJECTORIES))
    data = pl.concat([curves, _events(curves)], how="diagonal").drop("model", "recipe", "temperature", *EVENTS)
    x = theme.whole_axis("step", "generated token (step)", curves["step"])
    scale = alt.Scale(type="symlog", constant=0.01, domainMin=0, nice=False)
    axis = alt.Axis(values=[0, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100], format="~r")
    y = alt.Y("kl_median_nats:Q", title="KL(dense ‖ pruned), nats", scale=scale, axis=axis)
    color = alt.Color(
        "trajectory:N",
        title=None,
        scale=alt.Scale(domain=list(TRAJECTORIES.values()), range=[theme.BLUE, theme.VERMILLION]),
        legend=alt.Legend(symbolOpacity=1, symbolType="stroke", symbolStrokeWidth=2.5, symbolSize=200),
    )
    # Vega draws a missing value of a line as a gap, but of a band or point as 0: each layer takes its own rows.
    base = alt.Chart().transform_filter("isValid(datum.trajectory)").encode(x=x, color=color)
    band = base.mark_area(opacity=0.18).encode(
        y=alt.Y("kl_p10_nats:Q", scale=scale, axis=axis, title="KL(dense ‖ pruned), nats"), y2=alt.Y2("kl_p90_nats:Q")
    )
    line = base.mark_line(strokeWidth=1.8, point=alt.OverlayMarkDef(size=10)).encode(
        y=y,
        strokeDash=alt.StrokeDash(
            "trajectory:N", title=None, scale=alt.Scale(domain=list(TRAJECTORIES.values()), range=[[4, 2], [1, 0]])
        ),
        tooltip=[
            "variant:N",
            "trajectory:N",
            "step:Q",
            "kl_median_nats:Q",
            "kl_p10_nats:Q",
            "kl_p90_nats:Q",
            "prompts:Q",
        ],
    )
    shapes = alt.Scale(domain=list(EVENTS.values()), range=["triangle-down", "square"])
    # Above the panel, a row for each event: both can fall on one step.
    marks = [
        alt.Chart()
        .transform_filter(alt.datum.event == event)
        .mark_point(filled=True, size=50, opacity=0.9, style="ink")
        .encode(
            x=x,
            y=alt.value(height),
            shape=alt.Shape("event:N", title=None, scale=shapes),
            tooltip=["variant:N", "event:N", "step:Q", alt.Tooltip("events:Q", title="prompts")],
        )
        for event, height in zip(EVENTS.values(), (-6, -16), strict=True)
    ]
    order = theme.names(curves, "variant")
    prompts = int(curves["prompts"].max())  # type: ignore[arg-type]
    return theme.themed(
        alt.layer(band, line, *marks, data=theme.rows(data))
        .properties(width=255, height=140)
        .facet(
            facet=alt.Facet("variant:N", title=None, sort=order, header=alt.Header(labelPadding=20)),
            columns=min(3, len(order)),
            title=theme.title(TITLE, f"{theme.models(frame)} · {prompts} prompts · {theme.temperatures(frame)}"),
        )
        .resolve_axis(x="independent")  # a shared axis would hang below the gaps of an unfinished row
    )
