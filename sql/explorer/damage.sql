-- Numbers of each variant with their 95 % intervals.
-- grain: one row per model × recipe × number.
-- inputs: variant_damage
-- how to read: top1_agreement is 1 − top1_change; an end is NULL if nothing bounds it. The dense variant has no
--   intervals, because its damage is 0 by definition.
with bounded as (
    select
        model, recipe, measure, amount,
        if(recipe = 'dense', null, amount_low) as amount_low,
        if(recipe = 'dense', null, amount_high) as amount_high
    from variant_damage
)

select *
from bounded
where measure in ('kl_step0_nats', 'kl_growth_nats', 'first_flip_step_median')

union all

select
    model, recipe,
    'top1_agreement' as measure,
    1 - amount as amount,
    1 - amount_high as amount_low,
    1 - amount_low as amount_high
from bounded
where measure = 'top1_change'
order by model, recipe, measure
