"""Estimate against truth for the paper's three theorems, on logarithmic axes with the diagonal.

The sample is drawn by the query, not here.
"""

import altair as alt
import polars as pl

from pipelines.charts import theme

TITLE = "Second-order estimates against the truth"
CAPTION = (
    "Each point is one layer at one position: on the diagonal the estimate is exact, above it the estimate is too "
    "large. A fixed sample of at most 750 points a theorem (the smallest MD5 values of the row's key); rows in which "
    "estimate or truth is exactly 0 have no place on logarithmic axes and are left out; points below 1e-9 lie on the "
    "edge."
)
QUERY = """\
select model, recipe, prompt_id, position, layer, sublayer, scope, lens, temperature, theorem, estimate, truth
from estimate_points
where estimate > 0 and truth > 0 and scope <> 'isolated'
qualify row_number() over (
    partition by model, theorem
    order by md5(concat_ws('|', recipe, prompt_id, position, layer, sublayer, scope, lens, temperature)),
             recipe, prompt_id, position, layer, sublayer, scope, lens, temperature
) <= 750
order by model, theorem, truth, estimate"""

# A softmax of two logits hundreds apart gives shifts of 1e-40, which nobody can see in a text.
FLOOR = 1e-9

PANELS = {
    "T1 h": "T1, hidden state: 1 − cos(h)",
    "T1 z": "T1, logits: 1 − cos(z)",
    "T2 p": "T2, probabilities: 1 − cos(p)",
    "T3 KL": "T3, KL(dense ‖ pruned) in nats",
}
SCOPES = {"local": "local, one sublayer swapped", "propagated": "propagated, the pruned model run whole"}


def _panel(points: pl.DataFrame, panel: str) -> theme.AnyChart:
    low, high = theme.extent(points["truth"], points["estimate"])
    low, high = max(low, FLOOR), max(high, 10 * FLOOR)
    scale, axis = theme.decades(low, high)
    scale.clamp = True  # what lies below the floor is drawn on the edge
    ends = theme.inline([{"truth": low, "estimate": low}, {"truth": high, "estimate": high}])
    x = alt.X("truth:Q", title="truth", scale=scale, axis=axis)
    y = alt.Y("estimate:Q", title="estimate", scale=scale, axis=axis)
    diagonal = alt.Chart(ends).mark_line(style="quiet", strokeDash=[4, 3], strokeWidth=1).encode(x=x, y=y)
    cloud = (
        alt.Chart(theme.rows(points))
        .mark_point(filled=True, size=14, opacity=0.5)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "scope:N",
                title=None,
                scale=alt.Scale(domain=list(SCOPES.values()), range=[theme.BLUE, theme.VERMILLION]),
            ),
            shape=alt.Shape(
                "scope:N", title=None, scale=alt.Scale(domain=list(SCOPES.values()), range=["circle", "triangle-up"])
            ),
            tooltip=[
                "variant:N",
                "layer:Q",
                "sublayer:N",
                "lens:N",
                "position:Q",
                "temperature:Q",
                "estimate:Q",
                "truth:Q",
            ],
        )
    )
    return alt.layer(diagonal, cloud).properties(
        width=370, height=250, title=alt.TitleParams(panel, fontSize=12, frame="group")
    )


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draws rows of `estimate_points`, one panel per theorem."""
    positive = frame.filter(pl.all_horizontal(theme.has_logarithm("estimate"), theme.has_logarithm("truth")))
    if positive.is_empty():
        return theme.no_data(TITLE, "no layer moved, so that there is nothing to estimate")
    points = theme.with_variant(positive).with_columns(pl.col("scope").cast(pl.String).replace(SCOPES))
    columns = ["variant", "layer", "sublayer", "scope", "lens", "position", "temperature", "estimate", "truth"]
    shown = []
    for theorem, panel in PANELS.items():
        part = points.filter(pl.col("theorem") == theorem).select(columns)
        if not part.is_empty():
            shown.append(_panel(part, panel))
    return theme.themed(
        alt.concat(*shown, columns=2, title=theme.title(TITLE, f"{theme.models(frame)} · {positive.height:,} points"))
    )
