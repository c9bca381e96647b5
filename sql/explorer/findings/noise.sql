-- KL of rounding alone, and the variants below it.
-- grain: one row per model.
-- inputs: variant_summary
select
    model,
    max(kl_noise_p95_nats) as kl_noise_p95_nats,
    count(is_below_noise) as variants,
    list(recipe order by recipe) filter (where is_below_noise) as recipes_below
from variant_summary
where recipe <> 'dense'
group by all
having max(kl_noise_p95_nats) is not null
order by model
