-- At equal mean KL, does pruning do other damage than quantization?
-- grain: one row per pruned variant × method of quantization × measure.
-- key: model, recipe, quantization, measure
-- inputs: variant_summary, variant_damage, damage_influences, stg_variants
-- how to read: both sides are at the pruned variant's mean teacher-forced KL(dense‖pruned). value_quantized is the
--   measure on a straight line in KL between the two nearest quantized variants of the method, where the dense model
--   (KL 0, nothing changed) is the first point of every line; NULL beyond its largest KL, for nothing is extrapolated.
--   In every measure more is worse; difference above 0 says that pruning does more of it. A variant that prunes and
--   quantizes, such as a composition that a method of quantization is part of, is on neither side. An imported
--   checkpoint (external) is on the pruned side where it drops sublayers or only sets weights to zero; where it also
--   changes weights that stay it is on neither, for rounding makes zeros too and nothing says which it was. A measure
--   that was not taken gives no row. The interval of the difference is paired: both sides read the same prompts or
--   questions, and what these have in common cancels. It takes the KLs as they are, and is NULL below 5 prompts or
--   questions and where none deviates.
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
--   difference_low: Lower end of its 95 % interval, paired by prompt or question [share or nats]
--   difference_high: Upper end of it [share or nats]
with

measures as (
    select
        totals.model,
        totals.recipe,
        totals.method,
        totals.parameters_removed_share,
        totals.kl_teacher_forced_mean_nats as kl_nats,
        damage.measure,
        damage.amount
    from variant_summary as totals
    inner join variant_damage as damage
        on totals.model = damage.model and totals.recipe = damage.recipe
    where totals.kl_teacher_forced_mean_nats is not null
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
    where method in ('rtn', 'gptq', 'awq')
),

-- Every quantized variant with the share that it has in a point of the line; the dense model is the first point.
points as (
    select
        model,
        method,
        measure,
        kl_nats,
        recipe,
        amount,
        -- Of several at the same KL the mean counts.
        1.0 / count(*) over (partition by model, method, measure, kl_nats) as times
    from quantized
    where kl_nats > 0

    union all

    select
        quantized.model,
        quantized.method,
        quantized.measure,
        0 as kl_nats,
        'dense' as recipe,
        -- A text that the dense model loops in itself is its own collapse.
        coalesce(any_value(dense.amount), 0) as amount,
        1.0 as times
    from quantized
    left join measures as dense
        on quantized.model = dense.model and quantized.measure = dense.measure and dense.recipe = 'dense'
    group by quantized.model, quantized.method, quantized.measure
),

lines as (
    -- Under the first one's name.
    select
        model,
        method,
        measure,
        kl_nats,
        min(recipe) as recipe,
        avg(amount) as amount
    from points
    group by model, method, measure, kl_nats
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
    where measures.parameters_removed_share > 0
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

weighed as (
    -- How much the point above counts; none where nothing is extrapolated.
    select
        *,
        case when kl_above = kl_below then 0 else (kl_nats - kl_below) / (kl_above - kl_below) end as share_above
    from bracketed
),

-- What goes into a difference, and how often.
terms as (
    select
        model,
        recipe,
        quantization,
        measure,
        recipe as term,
        1 as times
    from weighed

    union all

    select
        weighed.model,
        weighed.recipe,
        weighed.quantization,
        weighed.measure,
        points.recipe as term,
        points.times * (weighed.share_above - 1) as times
    from weighed
    inner join points
        on
            weighed.model = points.model
            and weighed.quantization = points.method
            and weighed.measure = points.measure
            and weighed.kl_below = points.kl_nats

    union all

    select
        weighed.model,
        weighed.recipe,
        weighed.quantization,
        weighed.measure,
        points.recipe as term,
        -points.times * weighed.share_above as times
    from weighed
    inner join points
        on
            weighed.model = points.model
            and weighed.quantization = points.method
            and weighed.measure = points.measure
            and weighed.kl_above = points.kl_nats
),

by_unit as (
    select
        terms.model,
        terms.recipe,
        terms.quantization,
        terms.measure,
        damage_influences.unit,
        case
            when count(damage_influences.influence) = count(*) then sum(terms.times * damage_influences.influence)
        end as influence
    from terms
    inner join damage_influences
        on
            terms.model = damage_influences.model
            and terms.term = damage_influences.recipe
            and terms.measure = damage_influences.measure
    group by terms.model, terms.recipe, terms.quantization, terms.measure, damage_influences.unit
),

spreads as (
    select
        model,
        recipe,
        quantization,
        measure,
        half_width_over_clusters(influence) as half_width
    from by_unit
    group by model, recipe, quantization, measure
),

interpolated as (
    select
        weighed.*,
        weighed.amount_below + (weighed.amount_above - weighed.amount_below) * weighed.share_above as amount_quantized,
        spreads.half_width
    from weighed
    left join spreads
        on
            weighed.model = spreads.model
            and weighed.recipe = spreads.recipe
            and weighed.quantization = spreads.quantization
            and weighed.measure = spreads.measure
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
    amount - amount_quantized as difference,
    amount - amount_quantized - half_width as difference_low,
    amount - amount_quantized + half_width as difference_high
from interpolated
order by model, recipe, quantization, measure
