"""What pruning breaks beside what quantization breaks at the same KL.

Interpolating between the quantized variants is the query's business.
"""

import altair as alt
import polars as pl

from pipelines.charts import methods, theme

TITLE = "Pruning against quantization at equal KL"
CAPTION = (
    "Each coloured point is a pruned variant, at its mean teacher-forced KL(dense ‖ pruned). The grey line joins what "
    "quantization does at the same KL, interpolated between the dense model and the quantized variants (grey points); "
    "the thin rule from it to the point is the damage that pruning adds or spares. Points without a rule lie beyond "
    "the largest quantized KL, where nothing is extrapolated. Higher is worse. The measures are over few prompts and "
    "carry no interval here. KL of exactly 0 has no place on the axis."
)
QUERY = """\
with quantized as (
    -- Lists that are unnested in one select run in step.
    select model, recipe, method, kl_teacher_forced_mean_nats as kl_nats,
           unnest(['top1_change', 'kl_step0_nats', 'kl_free_running_median_nats', 'flipped_share', 'collapsed_share',
                   'options_changed_share']) as measure,
           unnest([1 - top1_agreement, kl_step0_nats, kl_free_running_median_nats,
                   prompts_flipped / nullif(prompts, 0), prompts_collapsed / nullif(prompts, 0),
                   1 - options_argmax_kept / nullif(questions, 0)]) as value
    from variant_summary
    where method in ('rtn', 'gptq', 'awq')
)
select answers.model, recipe, method, quantization, measure, kl_nats, value_pruned, value_quantized, recipe_below,
       recipe_above, difference
from q27_pruning_against_quantization as answers
inner join (select model, recipe, method from variant_summary) as summary using (model, recipe)
where kl_nats > 0
union all
select model, recipe, method, method, measure, kl_nats, null, value, recipe, recipe, null
from quantized
semi join (select distinct model, quantization as method, measure from q27_pruning_against_quantization) as asked
    using (model, method, measure)
where kl_nats > 0 and value is not null
order by model, quantization, measure, kl_nats, recipe"""

MEASURES = {
    "top1_change": "steps with another top token",
    "kl_step0_nats": "KL at the first token, nats",
    "kl_free_running_median_nats": "median KL of free texts, nats",
    "flipped_share": "prompts whose text flips",
    "collapsed_share": "prompts whose text loops",
    "options_changed_share": "questions with another choice",
}


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draws rows of `q27_pruning_against_quantization` of one model and one method of quantization."""
    if frame.is_empty():
        return theme.no_data(TITLE, "the study has no quantized variant (rtn, gptq, awq) beside the pruned ones")
    named = methods.labelled(theme.with_variant(frame), "method", "recipe_below", "recipe_above")
    named, order = methods.panel_titles(named, "measure", MEASURES)
    # A point of quantization has no pruned value.
    marks = methods.encodings(named.drop_nulls("value_pruned")["method"])
    scale, axis = theme.decades(*theme.extent(named["kl_nats"]))
    x = alt.X("kl_nats:Q", title="mean KL(dense ‖ pruned), nats", scale=scale, axis=axis)
    base = alt.Chart().encode(x=x)
    line = base.transform_filter("isValid(datum.value_quantized)")
    pruned = base.transform_filter("isValid(datum.value_pruned)")
    quantized = line.transform_filter("!isValid(datum.value_pruned)")
    compared = pruned.transform_filter("isValid(datum.value_quantized)")
    y = alt.Y("value_pruned:Q", title=None)
    chart = alt.layer(
        line.mark_line(color=theme.GREY, strokeWidth=2).encode(y=alt.Y("value_quantized:Q", title=None)),
        quantized.mark_point(filled=True, size=70, opacity=1, color=theme.GREY).encode(
            y=alt.Y("value_quantized:Q", title=None), tooltip=["variant:N", "kl_nats:Q", "value_quantized:Q"]
        ),
        compared.mark_rule(strokeWidth=1, opacity=0.6).encode(y=y, y2="value_quantized:Q", color=marks["color"]),
        pruned.mark_point(filled=True, size=45, opacity=0.9).encode(
            y=y,
            **marks,
            tooltip=[
                "variant:N",
                "kl_nats:Q",
                "value_pruned:Q",
                "value_quantized:Q",
                "difference:Q",
                "recipe_below:N",
                "recipe_above:N",
            ],
        ),
        data=theme.rows(
            named.select(
                "panel",
                "variant",
                "method",
                "kl_nats",
                "value_pruned",
                "value_quantized",
                "difference",
                "recipe_below",
                "recipe_above",
            )
        ),
    )
    method = theme.names(methods.labelled(frame, "quantization"), "quantization")
    return theme.themed(
        chart.properties(width=240, height=150)
        .facet(
            facet=alt.Facet("panel:N", title=None, sort=order),
            columns=3,
            title=theme.title(TITLE, f"{theme.models(frame)} · grey: {', '.join(method)}"),
        )
        .resolve_scale(y="independent")
        .resolve_axis(x="independent", y="independent")
    )
