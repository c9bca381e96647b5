"""Most likely tokens of both models at one step, the first flip: the paper's Figure 8, for every recipe."""

from functools import partial

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.display_text import visible

TITLE = "Top tokens of both models at the first flip"
CAPTION = (
    "The tokens that either model ranks among its six most likely, with the probability that each model gives them "
    "while both read the dense tokens. The square is the dense model, the circle the variant. The step is the first at "
    "which the variant alone would write another token, or step 0 if there is no such step. ␣ is a space, ↵ a line "
    "break. At most four prompts are shown, those of each kind that break first."
)
NEEDS = "no variant has its most likely tokens kept"

SIDES = {"dense": theme.BLUE, "pruned": theme.VERMILLION}
COLUMNS = 3
_LIMIT = 14  # maximum columns of a token's text
_TOKEN_WIDTH = 105  # pixels of a text of that length next to its panel


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw one row per variant and token, of one model and one prompt."""
    no_flip = pl.when(pl.col("first_flip_step").is_null()).then(pl.lit(", no flip")).otherwise(pl.lit(""))
    data = theme.with_variant(frame).select(
        pl.format("step {}{} · {}", "step", no_flip, "variant").alias("panel"),
        # Sorted by `place`, because the texts of two tokens can look alike.
        pl.int_range(pl.len()).over("variant").alias("place"),
        pl.col("token_text").map_elements(lambda text: visible(text, _LIMIT), return_dtype=pl.String).alias("token"),
        *("token_id", "rank_dense", "rank_pruned"),
        *(pl.col(f"probability_{side}").cast(pl.Float64).alias(side) for side in SIDES),
        *(pl.lit(side).alias(f"name_{side}") for side in SIDES),
    )
    panels = theme.names(data, "panel")
    axis = alt.Axis(values=[0, 0.5, 1], format="~g")
    x = partial(alt.X, title="probability", scale=alt.Scale(domain=[0, 1]), axis=axis)
    base = theme.Chart().encode(y=alt.Y("place:O", title=None, axis=None))
    words = base.mark_text(align="right", dx=-6, font=theme.MONOSPACE, fontSize=11, clip=False)
    tooltip = theme.tooltip("token:N token_id dense pruned rank_dense rank_pruned")
    ends = [
        base.mark_point(filled=True, size=50, opacity=0.9).encode(
            x=x(f"{side}:Q"),
            color=theme.nominal(alt.Color, f"name_{side}", SIDES, SIDES.values()),
            shape=theme.nominal(alt.Shape, f"name_{side}", SIDES, ["square", "circle"]),
            tooltip=tooltip,
        )
        for side in SIDES
    ]
    chart = alt.layer(
        base.mark_rule(style="quiet").encode(**theme.span(x("dense:Q"), "pruned")),
        words.encode(x=alt.value(0), text=alt.Text("token:N")),
        *ends,
        data=theme.rows(data),
    ).properties(width=150, height=alt.Step(16))
    grid = theme.faceted(
        chart,
        "panel",
        panels,
        columns=min(COLUMNS, len(panels)),
        header={"labelLimit": 150 + _TOKEN_WIDTH - 10},
        bounds="flush",  # so that long tokens do not move the panels
        spacing=alt.RowColnumber(row=75, column=_TOKEN_WIDTH),
    )
    return grid.resolve_axis(x="independent"), [theme.about(frame, "model prompt_id")]
