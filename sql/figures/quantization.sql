-- Damage by pruning against damage by quantization at the same KL.
-- grain: one row per model × quantization × measure × variant, pruned or quantized.
-- inputs: q27_pruning_against_quantization, variant_damage, variant_summary
-- how to read: in rows of quantized variants value_pruned and the difference are NULL.
with answers as materialized (
    select *
    from q27_pruning_against_quantization
    where kl_nats > 0
),

damage as materialized (
    select
        variant_damage.*,
        variant_summary.method,
        variant_summary.kl_teacher_forced_mean_nats as kl_nats
    from variant_damage
    inner join variant_summary using (model, recipe)
)

select
    answers.model, answers.recipe, damage.method, answers.quantization, answers.measure, answers.kl_nats,
    answers.value_pruned, answers.value_quantized, answers.recipe_below, answers.recipe_above, answers.difference,
    answers.difference_low, answers.difference_high,
    damage.amount_low as low,
    damage.amount_high as high
from answers
inner join damage using (model, recipe, measure)

union all by name

select
    damage.model, damage.recipe, damage.method,
    damage.method as quantization,
    damage.measure, damage.kl_nats,
    damage.amount as value_quantized,
    damage.recipe as recipe_below,
    damage.recipe as recipe_above,
    damage.amount_low as low,
    damage.amount_high as high
from damage
semi join answers
    on damage.model = answers.model and damage.method = answers.quantization and damage.measure = answers.measure
where damage.kl_nats > 0
order by model, quantization, measure, kl_nats, recipe
