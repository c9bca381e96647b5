-- KL on each trajectory after the first flip, for variants and for noise, and what the comparison says.
-- grain: one row per model.
-- inputs: q13_own_text_against_forced
select
    model,
    count(*) filter (where not is_noise) as variants,
    median(kl_teacher_forced_median_nats) filter (where not is_noise) as forced_nats,
    median(kl_own_text_median_nats) filter (where not is_noise) as own_nats,
    median(kl_free_running_median_nats) filter (where not is_noise) as free_nats,
    median(kl_fork_median_nats) filter (where not is_noise) as fork_nats,
    max(kl_free_running_median_nats) filter (where is_noise) as noise_free_nats,
    list(recipe order by recipe) filter (where not is_noise and own_text_is = 'further') as own_further,
    list(recipe order by recipe) filter (where not is_noise and own_text_is = 'nearer') as own_nearer,
    list(recipe order by recipe) filter (where not is_noise and free_running_is = 'further') as free_further
from q13_own_text_against_forced
where kl_own_text_median_nats is not null
group by all
having variants > 0
order by model
