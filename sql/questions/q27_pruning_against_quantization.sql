-- At equal mean KL, does pruning do different damage than quantization?
-- grain: one row per pruned variant × method of quantization × measure.
-- key: model, recipe, quantization, measure
-- inputs: quantization_at_equal_kl, damage_influences
-- how to read: both sides are at the pruned variant's mean teacher-forced KL(dense‖pruned). value_quantized is the
--   measure, interpolated linearly in KL between the two nearest quantized variants of the method. The dense model (KL
--   0, nothing changed) is the first point of every line. value_quantized is NULL beyond the largest KL, because
--   nothing is extrapolated. In every measure more is worse, so a difference above 0 says that pruning does more
--   damage. A variant that prunes and quantizes, such as a composition or a mixed recipe with a method of quantization,
--   is on neither side. An imported checkpoint (external) is on the pruned side if it drops sublayers or only sets
--   weights to zero; if it also changes other weights it is on neither, because rounding makes zeros too. A measure
--   that was not taken has no row. The interval of the difference is paired: both sides read the same prompts or
--   questions, whose common difficulty cancels. It takes the KLs as exact, and is NULL below 2 prompts or questions and
--   if none deviates.
-- reason: a mean KL is one number; at the same mean KL, one kind of compression may break a text early and another
--   late.
-- columns:
--   quantization: Method of quantization that it is compared with, such as gptq [label]
--   measure: top1_change, the share of steps with another most likely token; kl_step0_nats at the first token;
--     flipped_share and collapsed_share of prompts; options_changed_share of questions [label]
--   kl_nats: Mean teacher-forced KL(dense‖pruned) at which both are compared [nats]
--   value_pruned: The measure of the pruned variant; more is worse [share or nats]
--   value_quantized: The measure of quantization at the same KL, interpolated; NULL beyond its largest [share or nats]
--   difference: Damage of pruning minus that of quantization [share or nats] = value_pruned − value_quantized
--   difference_low: Lower end of its 95 % interval, paired by prompt or question [share or nats]
with

-- A CTE that is read several times is computed once.
matched as (
    select * from quantization_at_equal_kl
),

-- The variants that a difference is computed from, with their weights.
terms as (
    select
        model, recipe, quantization, measure,
        recipe as term,
        1 as factor
    from matched

    union all

    select
        model, recipe, quantization, measure,
        unnest(recipes_below) as term,
        1.0 / len(recipes_below) * (share_above - 1) as factor
    from matched

    union all

    select
        model, recipe, quantization, measure,
        unnest(recipes_above) as term,
        -1.0 / len(recipes_above) * share_above as factor
    from matched
),

by_unit as (
    select
        terms.model, terms.recipe, terms.quantization, terms.measure, damage_influences.unit,
        case
            when count(damage_influences.influence) = count(*) then sum(terms.factor * damage_influences.influence)
        end as influence
    from terms
    inner join damage_influences
        on
            terms.model = damage_influences.model and terms.term = damage_influences.recipe
            and terms.measure = damage_influences.measure
    group by all
),

spreads as (
    select
        model, recipe, quantization, measure,
        half_width_over_clusters(influence) as half_width
    from by_unit
    group by all
)

select
    matched.model, matched.recipe, matched.quantization, matched.measure, matched.kl_nats,
    matched.amount as value_pruned,
    matched.amount_quantized as value_quantized,
    matched.recipe_below, matched.recipe_above,
    matched.amount - matched.amount_quantized as difference,
    matched.amount - matched.amount_quantized - spreads.half_width as difference_low,
    matched.amount - matched.amount_quantized + spreads.half_width as difference_high
from matched
left join spreads using (model, recipe, quantization, measure)
order by matched.model, matched.recipe, matched.quantization, matched.measure
