"""Generated tokens in reading order, one cell per token, coloured by KL."""

from typing import Literal

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.display_text import visible

TITLE = "What each variant writes, token by token"
CAPTION = (
    "Each row is the text of one variant, with the dense model's on top. The colour is KL(dense ‖ pruned) while both "
    "models read the variant's text. Bold tokens differ from the dense token. The outline marks the first one that "
    "differs. ␣ is a space, ↵ a line break. The first 64 tokens of at most four prompts are shown; they are the "
    "prompts of each kind that break first."
)
NEEDS = "no variant generated a token"

CELLS = 12  # per line, so that a line and the row names fit on a page
_NARROW_CELLS = 4  # in one column of a paper
BOUNDS = [0.01, 0.1, 1, 5, 20]
CLASSES = ["dense model", "below 0.01", "0.01 to 0.1", "0.1 to 1", "1 to 5", "5 to 20", "20 and more"]
# The dense row, which has no divergence, is grey; the others run from white to dark blue.
COLORS = ["#e6e6e6", "#f7fbff", "#d6e6f4", "#abcfe6", "#6aaed6", "#3787c0", "#0b4a90"]


def _cells(frame: pl.DataFrame, per_line: int) -> pl.DataFrame:
    pruned = theme.with_variant(frame).select(
        "variant",
        "step",
        pl.col("token_text_pruned").alias("text"),
        ~pl.col("is_same_token").alias("is_different"),
        (pl.col("first_flip_step") == pl.col("step")).fill_null(value=False).alias("is_first_flip"),
        "kl_own_text_nats",
        "kl_teacher_forced_nats",
    )
    dense = (
        frame.unique("step", keep="first", maintain_order=True)
        .sort("step")
        .select(
            pl.lit("dense").alias("variant"),
            "step",
            pl.col("token_text_dense").alias("text"),
            pl.lit(value=False).alias("is_different"),
            pl.lit(value=False).alias("is_first_flip"),
        )
    )
    kl = pl.col("kl_own_text_nats")
    written = pl.concat([dense, pruned], how="diagonal").filter(pl.col("text").is_not_null())  # a text may have ended
    return written.with_columns(
        pl.col("text").map_elements(lambda text: visible(text, 8), return_dtype=pl.String).alias("token"),
        pl.col("text").map_elements(lambda text: visible(text, 60), return_dtype=pl.String).alias("text"),
        pl.when(pl.col("variant") == "dense")
        .then(pl.lit(CLASSES[0]))
        .when(kl.is_not_null())
        .then(pl.sum_horizontal(kl >= bound for bound in BOUNDS).replace_strict(dict(enumerate(CLASSES[1:]))))
        .alias("class"),
        (pl.col("step") % per_line).alias("cell"),
        (pl.col("step") // per_line * per_line).alias("line"),
    )


def _words(base: alt.Chart, test: str, weight: Literal["normal", "bold"]) -> alt.Chart:
    dark = f"datum.kl_own_text_nats >= {BOUNDS[-2]}"
    words: alt.Chart = (
        base.transform_filter(test)
        .mark_text(font=theme.MONOSPACE, fontSize=11, limit=65, fontWeight=weight)
        .encode(text=alt.Text("token:N"), color=alt.condition(dark, alt.value("white"), alt.value(theme.INK)))
    )
    return words


def draw_narrow(frame: pl.DataFrame) -> theme.Drawn:
    """Draw rows of `token_trace` with the shorter lines that fit one column of a paper."""
    return draw(frame, _NARROW_CELLS)


def draw(frame: pl.DataFrame, per_line: int = CELLS) -> theme.Drawn:
    """Draw rows of `token_trace` of one model and one prompt, with `per_line` tokens per line."""
    cells = _cells(frame, per_line)
    x = alt.X("cell:O", title=None, axis=None, scale=alt.Scale(domain=list(range(per_line))))
    y = alt.Y("variant:N", title=None, sort=theme.names(cells, "variant"), axis=alt.Axis(domain=False, ticks=False))
    base = theme.Chart().encode(x=x, y=y)
    color = alt.Color(
        "class:N",
        title="KL(dense ‖ pruned) in nats, both on this text",
        scale=alt.Scale(domain=CLASSES, range=COLORS),
        legend=alt.Legend(symbolStrokeColor="#999999", symbolStrokeWidth=0.5, symbolType="square", symbolSize=150),
    )
    tooltip = theme.tooltip("variant:N step text:N kl_own_text_nats kl_teacher_forced_nats")
    flips = base.transform_filter("datum.is_first_flip")
    chart = alt.layer(
        base.mark_rect(style="gap", strokeWidth=1.5).encode(color=color, tooltip=tooltip),
        flips.mark_rect(fill=None, stroke=theme.VERMILLION, strokeWidth=2.5),
        _words(base, "!datum.is_different", "normal"),
        _words(base, "datum.is_different", "bold"),
        data=theme.rows(cells),
    ).properties(width=alt.Step(65), height=alt.Step(21), view=alt.ViewBackground(stroke=None))
    header = {"labelExpr": "'from step ' + datum.value", "labelAnchor": "start", "labelFontWeight": "normal"}
    lines = theme.faceted(chart, "line:O", theme.names(cells, "line"), 1, header=header, spacing=6)
    return lines, [theme.about(frame, "model prompt_id")]
