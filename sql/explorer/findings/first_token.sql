-- Smallest and largest KL at the first generated token.
-- grain: one row per model.
-- inputs: variant_summary
select
    model,
    count(*) as variants,
    min(kl_step0_nats) as least_nats,
    max(kl_step0_nats) as most_nats,
    first(recipe order by kl_step0_nats, recipe) as least_recipe,
    last(recipe order by kl_step0_nats, recipe) as most_recipe
from variant_summary
where recipe <> 'dense' and kl_step0_nats is not null
group by all
order by model
