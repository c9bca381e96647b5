-- At which temperature of the softmax is the KL divergence lowest?
-- grain: one row per model × recipe × trajectory.
-- key: model, recipe, trajectory
-- inputs: decoding_without_noise
-- how to read: only steps measured at every temperature of the variant and trajectory count, so all means are over the
--   same steps. temperature_lowest has the lowest mean KL (if several do, it is the lowest of them). If it is at an
--   edge of the measured temperatures (is_at_edge), the true minimum may be beyond the edge. Every KL vanishes as T
--   grows, so a minimum at the highest temperature means nothing. p_value is that of a one-sided paired t-test over
--   prompts against the temperature that is hardest to distinguish from it, not corrected for the number of
--   temperatures; NULL below 5 prompts and if none deviates. No row if only one temperature was measured. The dense
--   recipe and noise variants are excluded.
-- reason: a higher sampling temperature may hide pruning or show it; the paper draws this curve. The view is long
--   because the lowest temperature is compared with every other one.
-- columns:
--   n_temperatures: Temperatures that were measured [temperatures]
--   n: Steps measured at all of them [steps]
--   n_prompts: Prompts that they come from [prompts]
--   temperature_min: Lowest temperature measured
--   temperature_max: Highest temperature measured
--   temperature_lowest: Temperature at which the mean KL is lowest
--   kl_lowest_nats: Mean KL there [nats]
--   kl_highest_nats: Mean KL at the temperature at which it is highest [nats]
--   is_at_edge: Whether temperature_lowest is the lowest or the highest temperature measured
--   p_value: One-sided p that another temperature is as low, paired t-test over prompts; NULL below 5 [probability]
with temperatures as (
    select
        steps.model, steps.recipe, steps.trajectory,
        count(distinct steps.temperature) as n_temperatures
    from decoding_without_noise as steps
    where steps.recipe <> 'dense'
    group by all
    having count(distinct steps.temperature) > 1
),

complete as (
    select
        steps.model, steps.recipe, steps.trajectory, steps.prompt_id, steps.temperature,
        steps.kl_dense_pruned_nats as kl_nats,
        temperatures.n_temperatures
    from decoding_without_noise as steps
    inner join temperatures using (model, recipe, trajectory)
    qualify
        count(*) over (
            partition by steps.model, steps.recipe, steps.trajectory, steps.prompt_id, steps.step
        ) = temperatures.n_temperatures
),

prompt_sums as (
    select
        model, recipe, trajectory, prompt_id, temperature,
        any_value(n_temperatures) as n_temperatures,
        cast(count(*) as double) as steps,
        sum(cast(kl_nats as double)) as kl_sum_nats
    from complete
    group by all
),

means as (
    select
        model, recipe, trajectory, temperature,
        any_value(n_temperatures) as n_temperatures,
        count(*) as n_prompts,
        cast(sum(steps) as bigint) as n,
        sum(kl_sum_nats) / sum(steps) as kl_nats
    from prompt_sums
    group by all
),

lowest as (
    select
        model, recipe, trajectory,
        any_value(n_temperatures) as n_temperatures,
        any_value(n) as n,
        any_value(n_prompts) as n_prompts,
        min(temperature) as temperature_min,
        max(temperature) as temperature_max,
        arg_min(temperature, row(kl_nats, temperature)) as temperature_lowest,
        min(kl_nats) as kl_lowest_nats,
        max(kl_nats) as kl_highest_nats
    from means
    group by all
),

-- Every other temperature against the lowest, paired by prompt.
others as (
    select
        lowest.model, lowest.recipe, lowest.trajectory,
        count(*) as prompts,
        sum(other.kl_sum_nats - best.kl_sum_nats) / sum(best.steps) as difference_nats,
        sqrt(variance_over_clusters(other.kl_sum_nats - best.kl_sum_nats, best.steps)) as difference_se_nats
    from lowest
    inner join prompt_sums as best using (model, recipe, trajectory)
    inner join prompt_sums as other using (model, recipe, trajectory, prompt_id)
    where lowest.temperature_lowest = best.temperature and best.temperature <> other.temperature
    group by lowest.model, lowest.recipe, lowest.trajectory, other.temperature
),

p_values as (
    select
        model, recipe, trajectory,
        max(
            case
                when prompts >= 5 and difference_se_nats > 0
                    then 1 - t_probability(difference_nats / difference_se_nats, prompts - 1)
            end
        ) as p_value
    from others
    group by all
)

select
    lowest.model, lowest.recipe, lowest.trajectory, lowest.n_temperatures, lowest.n, lowest.n_prompts,
    lowest.temperature_min, lowest.temperature_max, lowest.temperature_lowest, lowest.kl_lowest_nats,
    lowest.kl_highest_nats,
    lowest.temperature_lowest in (lowest.temperature_min, lowest.temperature_max) as is_at_edge,
    p_values.p_value
from lowest
left join p_values using (model, recipe, trajectory)
order by lowest.model, lowest.recipe, lowest.trajectory
