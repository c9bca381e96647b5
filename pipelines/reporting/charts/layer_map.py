"""Origin and growth of a shift, by layer and step, as two heat maps per variant."""

import math
from typing import cast

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import method_encoding, theme

TITLE = "Where a shift arises and where it shows: layer × step"
CAPTION = (
    "Left: Var_p(Δz) of each sublayer alone, in the dense context. Right: KL(dense ‖ pruned) of the whole pruned "
    "model, read after each sublayer, with the final norm if that lens was measured. Each layer has two rows, "
    "attention below its MLP; the first layer is at the bottom. A cell is the median over the prompts and generated "
    "steps of its column, teacher forced. There are at most 24 columns. Blank cells are exactly 0: the sublayer is "
    "unchanged, or nothing has shifted yet. The darkest cells are 0.001 or less. Per method, the variants with the "
    "smallest and the largest mean KL are shown, at most twelve in all, sorted by KL."
)
NEEDS = "no variant was measured layer by layer at generated tokens"

QUANTITIES = {
    "var_p_dz": ("this sublayer alone: Var_p(Δz), logit²", "Var_p(Δz), logit²"),
    "kl_nats": ("the pruned model up to here: KL, nats", "KL, nats"),
}
# Smaller values change no generated text. A scale down to them would hide the differences above.
FLOOR = 1e-3
_WIDTH, _HEIGHT = 250, 180


def _lines(frame: pl.DataFrame, quantity: str) -> pl.DataFrame:
    """Return one row per sublayer with lists of steps and values, so that a cell takes 7 bytes of JSON, not 70."""
    return (
        # `theme.rows` does not look for NaN inside lists, and JSON does not have NaN.
        frame.filter(pl.col(quantity).is_finite())
        .sort("bin")
        .group_by("variant", "layer", "sublayer", maintain_order=True)
        .agg(
            (pl.col("bin") * pl.col("width")).alias("step"),
            pl.col(quantity).cast(pl.Float64).round_sig_figs(3).alias("value"),
        )
        .with_columns((2 * pl.col("layer").cast(pl.Int32) + (pl.col("sublayer") == "mlp")).alias("row"))
        .sort("row", maintain_order=True)
    )


def _map(lines: pl.DataFrame, quantity: str, rows: int, steps: list[int], order: list[str]) -> theme.AnyChart:
    heading, title = QUANTITIES[quantity]
    high = max(float(lines["value"].explode().max() or 0.0), 10 * FLOOR)  # type: ignore[arg-type]
    powers = range(math.ceil(math.log10(FLOOR)), math.floor(math.log10(high)) + 1)
    colors = [float(f"1e{power}") for power in powers[:: 1 + len(powers) // 5]]
    ticks = [2 * layer for layer in range(0, rows // 2, max(1, rows // 2 // 6))]
    x_axis = alt.Axis(values=steps[:: max(1, len(steps) // 6)], labelAngle=0)
    y_axis = alt.Axis(values=ticks, labelExpr="floor(datum.value / 2)")
    domain = list(range(rows))[::-1]
    chart = (
        theme.Chart(theme.rows(lines.select("variant", "layer", "sublayer", "row", "step", "value")))
        .transform_flatten(["step", "value"])
        .transform_filter("datum.value > 0")
        # Slightly too large, because fractional pixel ratios leave seams between exact cells.
        .mark_rect(width={"band": 1.05}, height={"band": 1.15})
        .encode(
            x=alt.X("step:O", title="generated token (step)", scale=alt.Scale(domain=steps, padding=0), axis=x_axis),
            y=alt.Y("row:O", title="layer", scale=alt.Scale(domain=domain, padding=0), axis=y_axis),
            color=alt.Color(
                "value:Q",
                title=title,
                scale=alt.Scale(type="log", scheme="viridis", domain=[FLOOR, high], clamp=True, nice=False),
                legend=alt.Legend(gradientLength=200, values=colors, labelExpr=theme.powers_of_ten(colors)),
            ),
            tooltip=[*theme.tooltip("variant:N layer sublayer:N step:O"), alt.Tooltip("value:Q", title=title)],
        )
        .properties(width=len(steps) * max(1, round(_WIDTH / len(steps))), height=rows * max(2, round(_HEIGHT / rows)))
    )
    heading_of = alt.TitleParams(heading, fontSize=12, anchor="start")
    grid = theme.faceted(chart, "variant", order, 1, spacing=8, title=heading_of)
    return cast(theme.AnyChart, grid.resolve_axis(x="independent"))


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw rows of one model: a row of two maps per variant, in order of KL."""
    named = method_encoding.labelled(theme.with_variant(frame), "lens").with_columns(pl.col("sublayer").cast(pl.String))
    order = theme.names(named, "variant")
    rows, width = 2 * (theme.largest(named, "layer") + 1), theme.largest(named, "width")
    steps = (named["bin"] * named["width"]).unique().sort().to_list()
    maps = [
        _map(lines, quantity, rows, steps, order)
        for quantity in QUANTITIES
        if not (lines := _lines(named, quantity)).is_empty()
    ]
    about = theme.about(
        frame, "model prompts temperature", f"lens {named['lens'][0]}", f"{width} steps per column" if width > 1 else ""
    )
    return alt.hconcat(*maps).resolve_scale(color="independent"), [about]
