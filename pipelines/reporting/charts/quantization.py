"""Damage by pruning against damage by quantization at the same KL."""

from functools import partial
from typing import Any

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import method_encoding, theme

TITLE = "Pruning against quantization at equal KL"
CAPTION = (
    "Each coloured point is a pruned variant, at its mean teacher-forced KL(dense ‖ pruned). The grey line is the "
    "damage by quantization at the same KL, interpolated between the dense model and the quantized variants (grey "
    "points). The thin rule from the line to the point is the damage that pruning adds or saves. It is solid if the 95 "
    "% interval of the difference, paired by prompt or question, excludes 0. It is dotted if the interval includes 0, "
    "or if there is only one prompt or question. Pale bars are 95 % intervals of a point alone: Wilson's for shares of "
    "prompts and questions, Student's t over prompts for the KL at the first token. Points without a rule are beyond "
    "the largest quantized KL, because nothing is extrapolated. Higher is worse. The axis cannot show a KL of exactly "
    "0."
)
NEEDS = "the study has no quantized variant (rtn, gptq, awq) to compare with"

MEASURES = {
    "top1_change": "steps with another top token",
    "kl_step0_nats": "KL at the first token, nats",
    "flipped_share": "prompts whose text flips",
    "collapsed_share": "prompts whose text loops",
    "options_changed_share": "questions with another choice",
}
_NUMBERS = "kl_nats value_pruned low high value_quantized difference difference_low difference_high"
_NAMES = ("recipe_below", "recipe_above")


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw rows of `q27_pruning_against_quantization` of one model and one method of quantization."""
    named = method_encoding.labelled(theme.with_variant(frame), "method", *_NAMES)
    named, order = method_encoding.panel_titles(named, "measure", MEASURES)
    # Quantized variants have no pruned value and are drawn in grey.
    marks = method_encoding.encodings(named.drop_nulls("value_pruned")["method"])
    scale, axis = theme.decades(*theme.extent(named["kl_nats"]))
    x = alt.X("kl_nats:Q", title="mean KL(dense ‖ pruned), nats", scale=scale, axis=axis)
    panels = [_panel(named.filter(panel=panel), panel, x, marks) for panel in order]
    methods = theme.names(method_encoding.labelled(frame, "quantization"), "quantization")
    about = theme.about(frame, "model", f"grey: {', '.join(methods)}")
    return alt.concat(*panels, columns=min(3, len(panels))), [about]


def _panel(part: pl.DataFrame, panel: str, x: alt.X, marks: dict[str, Any]) -> theme.AnyChart:
    """Draw one measure."""
    # An explicit domain, because Vega warns about a panel in which a mark has no row.
    scale = method_encoding.padded(*(part[column] for column in ("value_pruned", "value_quantized", "low", "high")))
    y = partial(alt.Y, title=None, scale=scale, axis=alt.Axis(tickCount=6))
    base = theme.Chart().encode(x=x)
    line, pruned = theme.valid(base, "value_quantized"), theme.valid(base, "value_pruned")
    quantized = line.transform_filter("!isValid(datum.value_pruned)")
    differs = "datum.difference_low > 0 || datum.difference_high < 0"
    spread = theme.span(y("low:Q"), "high")
    grey_bar = theme.valid(quantized, "low").mark_rule(strokeWidth=5, opacity=0.35, color=theme.GREY)
    bar = theme.valid(pruned, "low").mark_rule(strokeWidth=5, opacity=0.3)
    chart: theme.AnyChart = alt.layer(
        grey_bar.encode(**spread),
        bar.encode(**spread, color=marks["color"]),
        line.mark_line(color=theme.GREY, strokeWidth=2).encode(y=y("value_quantized:Q")),
        quantized.mark_point(filled=True, size=70, opacity=1, color=theme.GREY).encode(
            y=y("value_quantized:Q"), tooltip=theme.tooltip("variant:N kl_nats value_quantized low high")
        ),
        theme.valid(pruned, "value_quantized")
        .mark_rule(strokeWidth=1.2)
        .encode(
            **theme.span(y("value_pruned:Q"), "value_quantized:Q"),
            color=marks["color"],
            strokeDash=alt.condition(differs, alt.value([1, 0]), alt.value([2, 2])),
        ),
        pruned.mark_point(filled=True, size=45, opacity=0.9).encode(
            y=y("value_pruned:Q"),
            **marks,
            tooltip=theme.tooltip(f"variant:N {_NUMBERS} recipe_below:N recipe_above:N"),
        ),
        data=theme.rows(part.select("variant", "method", *_NUMBERS.split(), *_NAMES)),
    ).properties(width=240, height=150, title=alt.TitleParams(panel, fontSize=12, anchor="middle", frame="group"))
    return chart
