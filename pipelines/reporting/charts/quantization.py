"""Damage by pruning against damage by quantization at the same KL."""

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

MEASURES = {
    "top1_change": "steps with another top token",
    "kl_step0_nats": "KL at the first token, nats",
    "flipped_share": "prompts whose text flips",
    "collapsed_share": "prompts whose text loops",
    "options_changed_share": "questions with another choice",
}
_NUMBERS = (
    "kl_nats",
    "value_pruned",
    "low",
    "high",
    "value_quantized",
    "difference",
    "difference_low",
    "difference_high",
)
_NAMES = ("recipe_below", "recipe_above")


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draw rows of `q27_pruning_against_quantization` of one model and one method of quantization."""
    if frame.is_empty():
        return theme.no_data(TITLE, "the study has no quantized variant (rtn, gptq, awq) beside the pruned ones")
    named = method_encoding.labelled(theme.with_variant(frame), "method", *_NAMES)
    named, order = method_encoding.panel_titles(named, "measure", MEASURES)
    # Quantized variants have no pruned value and are drawn in grey.
    marks = method_encoding.encodings(named.drop_nulls("value_pruned")["method"])
    scale, axis = theme.decades(*theme.extent(named["kl_nats"]))
    x = alt.X("kl_nats:Q", title="mean KL(dense ‖ pruned), nats", scale=scale, axis=axis)
    panels = [_panel(named.filter(panel=panel), panel, x, marks) for panel in order]
    method = theme.names(method_encoding.labelled(frame, "quantization"), "quantization")
    title = theme.title(TITLE, f"{theme.models(frame)} · grey: {', '.join(method)}")
    return theme.themed(alt.concat(*panels, columns=min(3, len(panels)), title=title))


def _panel(part: pl.DataFrame, panel: str, x: alt.X, marks: dict[str, Any]) -> theme.AnyChart:
    """Draw one measure."""
    # An explicit domain, because Vega warns about a panel in which a mark has no row.
    scale = method_encoding.padded(*(part[column] for column in ("value_pruned", "value_quantized", "low", "high")))

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", title=None, scale=scale, axis=alt.Axis(tickCount=6))

    base = theme.Chart().encode(x=x)
    line = base.transform_filter("isValid(datum.value_quantized)")
    pruned = base.transform_filter("isValid(datum.value_pruned)")
    quantized = line.transform_filter("!isValid(datum.value_pruned)")
    compared = pruned.transform_filter("isValid(datum.value_quantized)")
    differs = "datum.difference_low > 0 || datum.difference_high < 0"
    spread = {"y": y("low"), "y2": alt.Y2("high")}
    chart: theme.AnyChart = alt.layer(
        quantized.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=5, opacity=0.35, color=theme.GREY)
        .encode(**spread),
        pruned.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=5, opacity=0.3)
        .encode(**spread, color=marks["color"]),
        line.mark_line(color=theme.GREY, strokeWidth=2).encode(y=y("value_quantized")),
        quantized.mark_point(filled=True, size=70, opacity=1, color=theme.GREY).encode(
            y=y("value_quantized"),
            tooltip=theme.tooltip("variant:N", "kl_nats:Q", "value_quantized:Q", "low:Q", "high:Q"),
        ),
        compared.mark_rule(strokeWidth=1.2).encode(
            y=y("value_pruned"),
            y2=alt.Y2("value_quantized:Q"),
            color=marks["color"],
            strokeDash=alt.condition(differs, alt.value([1, 0]), alt.value([2, 2])),
        ),
        pruned.mark_point(filled=True, size=45, opacity=0.9).encode(
            y=y("value_pruned"),
            **marks,
            tooltip=theme.tooltip("variant:N", *(f"{name}:Q" for name in _NUMBERS), *(f"{name}:N" for name in _NAMES)),
        ),
        data=theme.rows(part.select("variant", "method", *_NUMBERS, *_NAMES)),
    ).properties(width=240, height=150, title=alt.TitleParams(panel, fontSize=12, anchor="middle", frame="group"))
    return chart
