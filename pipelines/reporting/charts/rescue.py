"""Chart of what each sublayer brings back if it is dense again, beside what it does alone (q43)."""

from functools import partial

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.display_text import counted

TITLE = "What heals if one sublayer is dense again"
CAPTION = (
    "KL(dense ‖ pruned) at the output, on the dense text, by layer. Points: the KL that is gone from the variant if "
    "this sublayer alone is dense again (scope restored); bars are 95 % intervals over prompts. Crosses: the KL if "
    "this sublayer alone is pruned (scope isolated), if the study measured it. A point above its cross is a sublayer "
    "that does more harm beside the other pruned ones than alone. A point below 0 is one whose repair makes the output "
    "worse. Points do not add up to the KL of the variant, which the heading gives."
)
NEEDS = "no variant was measured in scope `restored`, as the study `causes` does"


# Symbol of each quantity.
_SHAPES = {"gone if it is dense again": "circle", "there if it alone is pruned": "cross"}


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw rows of one model: a panel per variant."""
    joint = frame.group_by("recipe", maintain_order=True).agg(pl.col("kl_joint_nats").first())
    headings = {recipe: f"{recipe}: {nats:.2g} nats" for recipe, nats in joint.iter_rows()}
    named = frame.select(
        *("layer", "rescue_rank", "rescued_share", "tokens_back"),
        variant=pl.col("recipe").cast(pl.String).replace(headings),
        sublayer=pl.col("sublayer").cast(pl.String).replace(theme.SUBLAYER_TITLES),
        # Without an interval the bar has no length.
        low=pl.col("rescued_low").fill_null(pl.col("rescued_nats")),
        high=pl.col("rescued_high").fill_null(pl.col("rescued_nats")),
    )
    values = zip(_SHAPES, ("rescued_nats", "kl_isolated_nats"), strict=True)
    rows = pl.concat(named.with_columns(frame[name].alias("nats"), KL=pl.lit(what)) for what, name in values)
    rows = rows.drop_nulls("nats")
    y = partial(alt.Y, title="KL, nats")
    color = theme.nominal(
        alt.Color, "sublayer", theme.SUBLAYER_TITLES.values(), theme.CATEGORIES[:2], legend=theme.POINTS
    )
    shape = theme.nominal(alt.Shape, "KL", _SHAPES, _SHAPES.values(), legend=theme.POINTS)
    base = theme.Chart().encode(x=theme.whole_axis("layer", "layer", rows["layer"]), color=color)
    chart = alt.layer(
        theme.Chart().mark_rule(color=theme.GREY, strokeWidth=0.8).encode(y=alt.datum(0)),
        base.mark_rule().encode(**theme.span(y("low:Q"), "high:Q")),
        base.mark_point(filled=True, size=30, opacity=1).encode(
            y=y("nats:Q"),
            shape=shape,
            tooltip=theme.tooltip(
                "variant:N KL:N sublayer:N layer nats low high rescue_rank rescued_share tokens_back"
            ),
        ),
        data=theme.rows(rows),
    ).properties(width=300, height=160)
    panels = theme.faceted(chart, "variant", theme.names(rows, "variant"), 2, bounds="flush", spacing=50)
    prompts = counted(theme.largest(frame, "n_prompts"), "prompt")
    return panels.resolve_scale(y="independent"), [theme.about(frame, "model", prompts)]
