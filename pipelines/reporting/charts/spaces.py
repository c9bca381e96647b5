"""One prompt in h, z and p next to each other: the paper's Figure 2, for every recipe."""

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme

TITLE = "The same tokens in hidden states, logits and probabilities"
CAPTION = (
    "Distance of each variant's output from the dense one in h, z and p, as 1 − cos, while both read the same tokens "
    "(teacher forced). The point is the median over the generated tokens, the bar runs from the 10th to the 90th "
    "percentile, and the small tick is the first token. Variants are sorted by their shift in p. Values below 1e-6 are "
    "drawn on the edge. At most four prompts are shown, those of each kind that break first."
)
NEEDS = "no variant read the dense model's tokens"

FLOOR = 1e-6


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw one row per variant of one model and one prompt."""
    named = theme.with_variant(frame)
    parts = ("median", "p10", "p90", "first")
    data = theme.stacked(named, ["variant", "tokens"], "space", theme.SPACE_TITLES, parts)
    low, high = theme.extent(*(data[part] for part in parts))
    scale, axis = theme.decades(max(low, FLOOR), max(high, 10 * FLOOR), ticks=4)
    scale.clamp = True
    titles = list(theme.SPACE_TITLES.values())
    base = theme.Chart().encode(
        y=alt.Y("variant:N", title=None, sort=theme.names(named, "variant")),
        color=alt.Color("space:N", scale=alt.Scale(domain=titles, range=theme.SPACE_COLORS), legend=None),
    )
    x = alt.X("median:Q", title="1 − cos (dense, pruned)", scale=scale, axis=axis)
    chart = alt.layer(
        base.mark_rule(opacity=0.5, strokeWidth=2).encode(**theme.span(alt.X("p10:Q", scale=scale), "p90:Q")),
        base.mark_tick(thickness=1.5, size=9).encode(x=alt.X("first:Q", scale=scale)),
        base.mark_point(filled=True, size=45, opacity=1).encode(
            x=x, tooltip=theme.tooltip("variant:N space:N median p10 p90 first tokens")
        ),
        data=theme.rows(data),
    ).properties(width=210, height=alt.Step(18))
    panels = chart.facet(column=alt.Column("space:N", title=None, sort=titles), spacing=14)
    return panels, [theme.about(frame, "model prompt_id temperature")]
