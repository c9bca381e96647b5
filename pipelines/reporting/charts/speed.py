"""Score against speed, relative to the dense model."""

from functools import partial

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import method_encoding, theme

TITLE = "What is left for the speed that was won"
CAPTION = (
    "One point per variant: its speed as a multiple of the dense model's, timed alternately with it on one machine, "
    "at the smallest timed batch and its longest prompt. The band shows how far the dense model, timed against "
    "itself, is from 1: a speedup within it is noise. Masked and quantized weights are multiplied as dense ones here "
    f"and save no time. {method_encoding.SCORE_CAPTION}"
)
NEEDS = "the study times no variant (key `speed`)"

WORK = {"prefill": "reading a prompt", "decode": "writing"}


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw rows of one model: a row of panels per measure, reading left of writing."""
    equal = pl.col("equal_sides").fill_null(0.0)
    named = method_encoding.labelled(theme.with_variant(frame), "method").with_columns(
        pl.col("work").cast(pl.String).replace(WORK), (1 - equal).alias("equal_low"), (1 + equal).alias("equal_high")
    )
    named, order = method_encoding.panel_titles(named, "measure", method_encoding.SCORE_TITLES)
    marks = method_encoding.encodings(named["method"])
    x_scale = method_encoding.padded(named["speedup"], named["equal_low"], named["equal_high"], share=0.08)
    y_scale = method_encoding.padded(named["score"], named["low"], named["high"])
    # Two lines, so that the title fits below a panel of half a column.
    x = partial(alt.X, title=["times as fast as", "the dense model"], scale=x_scale)
    y = partial(alt.Y, title=None, scale=y_scale)
    base = theme.Chart().encode(x=x("speedup:Q", axis=alt.Axis(grid=False)))
    band = base.mark_rect(opacity=0.25, color=theme.GREY)
    interval = base.transform_filter("datum.low < datum.high").mark_rule(strokeWidth=1, opacity=0.6)
    fields = ("panel", "work", "variant", "method", "speedup", "score", "low", "high", "equal_low", "equal_high")
    chart = alt.layer(
        band.encode(x=x("min(equal_low):Q"), x2="max(equal_high):Q"),
        interval.encode(**theme.span(y("low:Q"), "high:Q"), color=marks["color"]),
        base.mark_point(filled=True, size=50, opacity=0.9).encode(
            y=y("score:Q", axis=alt.Axis(format="~%", tickCount=6)),
            **marks,
            tooltip=theme.tooltip("variant:N method:N work:N speedup score low high"),
        ),
        data=theme.rows(named.select(fields)),
    ).properties(width=260, height=150)
    header = alt.Header(labelOrient="left", labelLimit=200, labelExpr="split(datum.value, ', ')")
    panels = chart.facet(
        column=alt.Column("work:N", title=None, sort=list(WORK.values())),
        row=alt.Row("panel:N", title=None, sort=order, header=header),
    )
    batch, length, written = frame.select("batch", "length", "new_tokens").row(0)
    timed = (f"batch {batch}", f"{length} prompt tokens", f"{written} written")
    return panels, [theme.about(frame, "model", *timed)]
