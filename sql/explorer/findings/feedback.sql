-- KL free running against KL teacher forced behind the first flip, medians over variants.
-- grain: one row per model.
-- inputs: token_trace
with

by_variant as (
    select
        model,
        recipe,
        median(kl_free_running_nats) as free_nats,
        median(kl_teacher_forced_nats) as forced_nats
    from token_trace
    where
        recipe <> 'dense'
        and step > first_flip_step
        and kl_free_running_nats is not null
        and kl_teacher_forced_nats is not null
    group by model, recipe
)

select
    model,
    count(*) as variants,
    median(free_nats) as free_nats,
    median(forced_nats) as forced_nats,
    count(*) filter (where free_nats > forced_nats) as variants_further,
    list(recipe order by recipe) filter (where free_nats <= forced_nats) as recipes_not_further
from by_variant
group by model
order by model
