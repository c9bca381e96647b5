"""Chart of what each sublayer brings back if it is dense again, beside what it does alone (q43)."""

from functools import partial

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.display_text import counted

TITLE = "What heals if one sublayer is dense again"
CAPTION = (
    "KL(dense ‖ pruned) at the output, on the dense text, by layer. Points: the KL that is gone from the variant if "
    "this sublayer alone is dense again (scope restored); bars are 95 % intervals over prompts. Ticks: the KL if "
    "this sublayer alone is pruned (scope isolated), if the study measured it. A point above its tick is a sublayer "
    "that does more harm beside the other pruned ones than alone. A point below 0 is one whose repair makes the output "
    "worse. Points do not add up to the KL of the variant, which the heading gives."
)
NEEDS = "no variant was measured in scope `restored`"


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw rows of one model: a panel per variant."""
    joint = frame.group_by("recipe", maintain_order=True).agg(pl.col("kl_joint_nats").first())
    headings = {recipe: f"{recipe}: {nats:.2g} nats" for recipe, nats in joint.iter_rows()}
    rows = frame.with_columns(
        variant=pl.col("recipe").cast(pl.String).replace(headings),
        sublayer=pl.col("sublayer").cast(pl.String).replace(theme.SUBLAYER_TITLES),
    )
    y = partial(alt.Y, title="KL, nats")
    color = theme.nominal(
        alt.Color, "sublayer", theme.SUBLAYER_TITLES.values(), theme.CATEGORIES[:2], legend=theme.POINTS
    )
    base = theme.Chart().encode(x=theme.whole_axis("layer", "layer", rows["layer"]), color=color)
    numbers = "layer rescue_rank rescued_nats rescued_low rescued_high rescued_share kl_isolated_nats tokens_back"
    zero = theme.Chart().mark_rule(color=theme.GREY, strokeWidth=0.8).encode(y=alt.datum(0))
    chart = alt.layer(
        zero,
        theme.valid(base, "rescued_low").mark_rule().encode(**theme.span(y("rescued_low:Q"), "rescued_high:Q")),
        theme.valid(base, "kl_isolated_nats")
        .mark_tick(orient="horizontal", thickness=2, size=9)
        .encode(y=y("kl_isolated_nats:Q")),
        base.mark_point(filled=True, size=30, opacity=1).encode(
            y=y("rescued_nats:Q"), tooltip=theme.tooltip(f"variant:N sublayer:N {numbers}")
        ),
        data=theme.rows(rows.select("variant", "sublayer", *numbers.split())),
    ).properties(width=300, height=160)
    panels = theme.faceted(chart, "variant", theme.names(rows, "variant"), 2, bounds="flush", spacing=50).resolve_scale(
        y="independent"
    )
    return panels, [theme.about(frame, "model", counted(theme.largest(frame, "n_prompts"), "prompt"))]
