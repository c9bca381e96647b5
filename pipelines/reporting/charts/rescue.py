"""Chart of what each sublayer brings back if it is dense again, beside what it does alone (q43)."""

from functools import partial

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.display_text import counted

TITLE = "What heals if one sublayer is dense again"
CAPTION = (
    "KL(dense ‖ pruned) at the output, on the dense text, by layer. Points: the KL that is gone from the variant if "
    "this sublayer alone is dense again (scope `restored`); bars are 95 % intervals over prompts. Grey line: the KL "
    "if this sublayer alone is pruned (scope `isolated`), where the study measured it. A point above the line is a "
    "sublayer that does more harm beside the other pruned ones than alone. A point below 0 is one whose repair makes "
    "the output worse. Values do not add up to the KL of the variant, which the heading gives."
)
NEEDS = "no variant was measured in scope `restored`"


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw rows of one model: a panel per variant and kind of sublayer, by layer."""
    joint = frame.group_by("recipe", maintain_order=True).agg(pl.col("kl_joint_nats").first())
    headings = {recipe: f"{recipe}: {nats:.2g} nats" for recipe, nats in joint.iter_rows()}
    rows = frame.with_columns(
        variant=pl.col("recipe").cast(pl.String).replace(headings),
        sublayer=pl.col("sublayer").cast(pl.String).replace(theme.SUBLAYER_TITLES),
    )
    kinds = list(theme.SUBLAYER_TITLES.values())
    y = partial(alt.Y, title="KL, nats")
    base = theme.Chart().encode(x=theme.whole_axis("layer", "layer", rows["layer"]))
    color = theme.nominal(alt.Color, "sublayer", kinds, theme.CATEGORIES[:2], legend=theme.POINTS)
    numbers = "layer rescue_rank rescued_nats rescued_low rescued_high rescued_share kl_isolated_nats tokens_back"
    alone = theme.valid(base, "kl_isolated_nats")
    chart = alt.layer(
        alone.mark_line(strokeWidth=1.4, color=theme.GREY).encode(y=y("kl_isolated_nats:Q"), detail="sublayer:N"),
        theme.valid(base, "rescued_low")
        .mark_rule()
        .encode(**theme.span(y("rescued_low:Q"), "rescued_high:Q"), color=color),
        base.mark_point(filled=True, size=26, opacity=1).encode(
            y=y("rescued_nats:Q"), color=color, tooltip=theme.tooltip(f"variant:N sublayer:N {numbers}")
        ),
        data=theme.rows(rows.select("variant", "sublayer", *numbers.split())),
    ).properties(width=270, height=130)
    panels = chart.facet(
        row=alt.Row("variant:N", title=None, sort=theme.names(rows, "variant")),
        column=alt.Column("sublayer:N", title=None, sort=kinds),
    )
    prompts = theme.largest(frame, "n_prompts")
    return panels.resolve_scale(y="independent"), [theme.about(frame, "model", counted(prompts, "prompt"))]
