"""Score against speed, relative to the dense model."""

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

WORK = {"prefill": "reading a prompt", "decode": "writing"}
# Two lines, so that the title fits below a panel of half a column.
_X_TITLE = ["times as fast as", "the dense model"]


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draw rows of one model: a row of panels per measure, reading left of writing."""
    if frame.is_empty():
        return theme.no_data(TITLE, "the study times no variant (key `speed`)")
    named = method_encoding.labelled(theme.with_variant(frame), "method").with_columns(
        pl.col("work").cast(pl.String).replace(WORK)
    )
    named, order = method_encoding.panel_titles(named, "measure", method_encoding.SCORE_TITLES)
    marks = method_encoding.encodings(named["method"])
    equal = named["equal_sides"].fill_null(0.0)
    named = named.with_columns((1 - equal).alias("equal_low"), (1 + equal).alias("equal_high"))
    x_scale = method_encoding.padded(named["speedup"], named["equal_low"], named["equal_high"], share=0.08)
    y_scale = method_encoding.padded(named["score"], named["low"], named["high"])
    y = alt.Y("score:Q", title=None, scale=y_scale, axis=alt.Axis(format="~%", tickCount=6))
    x = alt.X("speedup:Q", title=_X_TITLE, scale=x_scale, axis=alt.Axis(grid=False))
    base = theme.Chart().encode(x=x)
    chart = alt.layer(
        base.mark_rect(opacity=0.25, color=theme.GREY).encode(
            x=alt.X("min(equal_low):Q", title=_X_TITLE, scale=x_scale), x2="max(equal_high):Q"
        ),
        base.transform_filter("datum.low < datum.high")
        .mark_rule(strokeWidth=1, opacity=0.6)
        .encode(y=alt.Y("low:Q", title=None, scale=y_scale), y2=alt.Y2("high:Q"), color=marks["color"]),
        base.mark_point(filled=True, size=50, opacity=0.9).encode(
            y=y,
            **marks,
            tooltip=theme.tooltip("variant:N", "method:N", "work:N", "speedup:Q", "score:Q", "low:Q", "high:Q"),
        ),
        data=theme.rows(
            named.select(
                "panel", "work", "variant", "method", "speedup", "score", "low", "high", "equal_low", "equal_high"
            )
        ),
    )
    first = frame.row(0, named=True)
    timed = f"batch {first['batch']} · {first['length']} prompt tokens · {first['new_tokens']} written"
    return theme.themed(
        chart.properties(width=260, height=150).facet(
            column=alt.Column("work:N", title=None, sort=list(WORK.values())),
            row=alt.Row(
                "panel:N",
                title=None,
                sort=order,
                header=alt.Header(labelOrient="left", labelLimit=200, labelExpr="split(datum.value, ', ')"),
            ),
            title=theme.title(TITLE, f"{theme.models(frame)} · {timed}"),
        )
    )
