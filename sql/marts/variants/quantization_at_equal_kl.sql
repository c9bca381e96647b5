-- Each pruned variant with the quantized variants of the nearest KL, for each method of quantization and each measure.
-- grain: one row per pruned variant × method of quantization × measure.
-- key: model, recipe, quantization, measure
-- inputs: variant_summary, variant_damage, stg_variants
-- how to read: q27 says which variants count as pruned and as quantized, and how amount_quantized is interpolated.
--   share_above is NULL beyond the largest KL of the method, because nothing is extrapolated.
-- reason: q27 compares both kinds of compression at the same KL and only adds the intervals. The view is long because
--   it builds the lines from the same measures as the pruned points.
-- columns:
--   quantization: Method of quantization that the variant is compared with, such as gptq [label]
--   kl_nats: Mean teacher-forced KL(dense‖pruned) of the pruned variant [nats]
--   amount_quantized: The measure of quantization at the same KL, interpolated; NULL beyond its largest [share or nats]
--   recipe_below: The quantized recipe next below in KL; dense if there is none
--   recipe_above: The quantized recipe next above in KL; NULL if there is none
--   recipes_below: All quantized recipes with the KL of recipe_below; their mean counts
--   recipes_above: All quantized recipes with the KL of recipe_above; their mean counts
--   share_above: Weight of the point above [share]
with measures as (
    select
        totals.model, totals.recipe, totals.method, totals.parameters_removed_share,
        totals.kl_teacher_forced_mean_nats as kl_nats,
        damage.measure, damage.amount
    from variant_summary as totals
    inner join variant_damage as damage using (model, recipe)
    where damage.is_comparable and totals.kl_teacher_forced_mean_nats is not null
),

quantized as (
    select *
    from measures
    where method in ('rtn', 'gptq', 'awq')
),

-- Every quantized variant is a point of its method's line; the dense model is the first point.
points as (
    select model, method, measure, kl_nats, recipe, amount
    from quantized
    where kl_nats > 0

    union all

    select
        quantized.model, quantized.method, quantized.measure,
        0 as kl_nats,
        'dense' as recipe,
        -- A text in which the dense model itself loops counts as its own collapse.
        coalesce(any_value(dense.amount), 0) as amount
    from quantized
    left join measures as dense
        on quantized.model = dense.model and quantized.measure = dense.measure and dense.recipe = 'dense'
    group by all
),

lines as (
    -- Variants of equal KL form one point, under the first name.
    select
        model, method, measure, kl_nats,
        min(recipe) as recipe,
        list(recipe) as recipes,
        avg(amount) as amount
    from points
    group by all
),

methods as (
    select distinct model, method
    from quantized
),

not_only_pruned as (
    select model, recipe
    from stg_variants
    where
        list_has_any(
            json_extract_string(try_cast(parameters_json as json), '$.parts[*].method')
            || json_extract_string(try_cast(parameters_json as json), '$.treatments.*.method'),
            ['rtn', 'gptq', 'awq']
        )
        or (method = 'external' and weights_updated > 0 and sublayers_dropped_count = 0)
),

pruned as (
    select
        measures.*,
        methods.method as quantization
    from measures
    inner join methods using (model)
    anti join not_only_pruned using (model, recipe)
    where measures.parameters_removed_share > 0
),

bracketed as (
    select
        pruned.*,
        below.recipe as recipe_below,
        below.recipes as recipes_below,
        below.kl_nats as kl_below,
        below.amount as amount_below,
        above.recipe as recipe_above,
        above.recipes as recipes_above,
        above.kl_nats as kl_above,
        above.amount as amount_above
    from pruned
    asof left join lines as below
        on
            pruned.model = below.model and pruned.quantization = below.method and pruned.measure = below.measure
            and pruned.kl_nats >= below.kl_nats
    asof left join lines as above
        on
            pruned.model = above.model and pruned.quantization = above.method and pruned.measure = above.measure
            and pruned.kl_nats <= above.kl_nats
),

weighted as (
    -- The weight of the point above; NULL if there is none, because nothing is extrapolated.
    select
        *,
        case when kl_above = kl_below then 0 else (kl_nats - kl_below) / (kl_above - kl_below) end as share_above
    from bracketed
)

select
    model, recipe, quantization, measure, kl_nats, amount,
    amount_below + (amount_above - amount_below) * share_above as amount_quantized,
    recipe_below, recipe_above, recipes_below, recipes_above, share_above
from weighted
