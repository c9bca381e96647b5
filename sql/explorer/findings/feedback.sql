-- KL free running against KL teacher forced, medians over variants.
-- grain: one row per model.
-- inputs: variant_summary
select
    model,
    count(*) as variants,
    median(kl_free_running_median_nats) as free_nats,
    median(kl_teacher_forced_median_nats) as forced_nats,
    count(*) filter (where kl_free_running_median_nats > kl_teacher_forced_median_nats) as variants_further,
    list(recipe order by recipe) filter (where kl_free_running_median_nats <= kl_teacher_forced_median_nats)
        as recipes_not_further
from variant_summary
where recipe <> 'dense' and kl_free_running_median_nats is not null and kl_teacher_forced_median_nats is not null
group by model
order by model
