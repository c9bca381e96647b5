-- At equal mean KL, does pruning do other damage than quantization?
-- grain: one row per pruned variant × method of quantization × measure.
-- key: model, recipe, quantization, measure
-- inputs: variant_summary, stg_variants
-- how to read: both sides are at the pruned variant's mean teacher-forced KL(dense‖pruned). value_quantized is the
--   measure on a straight line in KL between the two nearest quantized variants of the method, where the dense model
--   (KL 0, nothing changed) is the first point of every line; NULL beyond its largest KL, for nothing is extrapolated.
--   In every measure more is worse; difference above 0 says that pruning does more of it. A variant that prunes and
--   quantizes, such as a composition that a method of quantization is part of, is on neither side. An imported
--   checkpoint (external) is on the pruned side where it drops sublayers or only sets weights to zero; where it also
--   changes weights that stay it is on neither, for rounding makes zeros too and nothing says which it was. A measure
--   that was not taken gives no row.
-- reason: a mean KL is one number; two kinds of compression with the same one may break a text early or late.
-- columns:
--   quantization: Method of quantization that it is held against, such as gptq [label]
--   measure: top1_change, the share of steps with another most likely token; kl_step0_nats at the first token;
--     kl_free_running_median_nats with each model on its own tokens; flipped_share and collapsed_share of prompts;
--     options_changed_share of questions [label]
--   kl_nats: Mean teacher-forced KL(dense‖pruned) at which both are compared [nats]
--   value_pruned: The measure of the pruned variant; more is worse [share or nats]
--   value_quantized: The measure of quantization at the same KL, interpolated; NULL beyond its largest [share or nats]
--   recipe_below: The quantized recipe next below in KL; dense where there is none
--   recipe_above: The quantized recipe next above in KL; NULL where there is none
--   difference: More damage by pruning than by quantization [share or nats] = value_pruned − value_quantized
with

measured as (
    select
        model,
        recipe,
        method,
        parameters_removed_share,
        kl_teacher_forced_mean_nats as kl_nats,
        1 - top1_agreement as top1_change,
        kl_step0_nats,
        kl_free_running_median_nats,
        prompts_flipped / nullif(prompts, 0) as flipped_share,
        prompts_collapsed / nullif(prompts, 0) as collapsed_share,
        1 - options_argmax_kept / nullif(questions, 0) as options_changed_share
    from variant_summary
    where kl_teacher_forced_mean_nats is not null
),

measures as (
    -- Lists that are unnested in one select run in step.
    select
        model,
        recipe,
        method,
        parameters_removed_share,
        kl_nats,
        unnest([
            'top1_change',
            'kl_step0_nats',
            'kl_free_running_median_nats',
            'flipped_share',
            'collapsed_share',
            'options_changed_share'
        ]) as measure,
        unnest([
            top1_change,
            kl_step0_nats,
            kl_free_running_median_nats,
            flipped_share,
            collapsed_share,
            options_changed_share
        ]) as amount
    from measured
),

quantized as (
    select
        model,
        recipe,
        method,
        kl_nats,
        measure,
        amount
    from measures
    where method in ('rtn', 'gptq', 'awq') and amount is not null
),

lines as (
    -- Of several at the same KL the mean counts, under the first one's name.
    select
        model,
        method,
        measure,
        kl_nats,
        min(recipe) as recipe,
        avg(amount) as amount
    from quantized
    where kl_nats > 0
    group by model, method, measure, kl_nats

    union all

    select
        quantized.model,
        quantized.method,
        quantized.measure,
        0 as kl_nats,
        'dense' as recipe,
        -- A text that the dense model loops in itself is its own collapse.
        coalesce(any_value(dense.amount), 0) as amount
    from quantized
    left join measures as dense
        on quantized.model = dense.model and quantized.measure = dense.measure and dense.recipe = 'dense'
    group by quantized.model, quantized.method, quantized.measure
),

methods as (
    select distinct
        model,
        method
    from quantized
),

not_only_pruned as (
    select
        model,
        recipe
    from stg_variants
    where
        list_has_any(
            json_extract_string(try_cast(parameters_json as json), '$.parts[*].method'), ['rtn', 'gptq', 'awq']
        )
        or (method = 'external' and weights_updated > 0 and sublayers_dropped_count = 0)
),

pruned as (
    select
        measures.model,
        measures.recipe,
        measures.measure,
        measures.kl_nats,
        measures.amount,
        methods.method as quantization
    from measures
    inner join methods
        on measures.model = methods.model
    anti join not_only_pruned
        on measures.model = not_only_pruned.model and measures.recipe = not_only_pruned.recipe
    where measures.parameters_removed_share > 0 and measures.amount is not null
),

bracketed as (
    select
        pruned.model,
        pruned.recipe,
        pruned.quantization,
        pruned.measure,
        pruned.kl_nats,
        pruned.amount,
        below.recipe as recipe_below,
        below.kl_nats as kl_below,
        below.amount as amount_below,
        above.recipe as recipe_above,
        above.kl_nats as kl_above,
        above.amount as amount_above
    from pruned
    asof left join lines as below
        on
            pruned.model = below.model
            and pruned.quantization = below.method
            and pruned.measure = below.measure
            and pruned.kl_nats >= below.kl_nats
    asof left join lines as above
        on
            pruned.model = above.model
            and pruned.quantization = above.method
            and pruned.measure = above.measure
            and pruned.kl_nats <= above.kl_nats
),

interpolated as (
    select
        *,
        case
            when kl_above = kl_below then amount_below
            else amount_below + (amount_above - amount_below) * (kl_nats - kl_below) / (kl_above - kl_below)
        end as amount_quantized
    from bracketed
)

select
    model,
    recipe,
    quantization,
    measure,
    kl_nats,
    amount as value_pruned,
    amount_quantized as value_quantized,
    recipe_below,
    recipe_above,
    amount - amount_quantized as difference
from interpolated
order by model, recipe, quantization, measure
