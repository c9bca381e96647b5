-- At which temperature of the softmax is the KL divergence lowest?
-- grain: one row per model × recipe × trajectory.
-- key: model, recipe, trajectory
-- inputs: decoding_without_noise
-- how to read: only steps measured at every temperature of the variant and trajectory count, so that all means are over
--   the same steps. temperature_lowest has the lowest mean KL (of equal ones the lowest temperature). At an edge of the
--   measured temperatures (is_at_edge) the true lowest may be beyond it; every KL vanishes as T grows, so that a lowest
--   KL at the highest temperature means nothing. certainty is the share of 400 fixed resamples of whole prompts in
--   which the same temperature is the lowest; NULL below 5 prompts. No row where only one temperature was measured. The
--   dense recipe and noise variants are excluded.
-- reason: a higher sampling temperature may hide pruning or show it; the paper draws this curve. The view is a little
--   long because the resampling repeats the choice of the lowest temperature.
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
--   certainty: Share of resamples of prompts with the same temperature_lowest; NULL below 5 prompts [share]
with

temperatures as (
    select
        steps.model,
        steps.recipe,
        steps.trajectory,
        count(distinct steps.temperature) as n_temperatures
    from decoding_without_noise as steps
    where steps.recipe <> 'dense'
    group by steps.model, steps.recipe, steps.trajectory
    having count(distinct steps.temperature) > 1
),

complete as (
    select
        steps.model,
        steps.recipe,
        steps.trajectory,
        steps.prompt_id,
        steps.temperature,
        steps.kl_dense_pruned_nats as kl_nats,
        temperatures.n_temperatures
    from decoding_without_noise as steps
    inner join temperatures
        on
            steps.model = temperatures.model
            and steps.recipe = temperatures.recipe
            and steps.trajectory = temperatures.trajectory
    qualify
        count(*) over (
            partition by steps.model, steps.recipe, steps.trajectory, steps.prompt_id, steps.step
        ) = temperatures.n_temperatures
),

prompt_sums as (
    select
        model,
        recipe,
        trajectory,
        prompt_id,
        temperature,
        any_value(n_temperatures) as n_temperatures,
        cast(count(*) as double) as steps,
        sum(cast(kl_nats as double)) as kl_sum_nats
    from complete
    group by model, recipe, trajectory, prompt_id, temperature
),

means as (
    select
        model,
        recipe,
        trajectory,
        temperature,
        any_value(n_temperatures) as n_temperatures,
        count(*) as n_prompts,
        cast(sum(steps) as bigint) as n,
        sum(kl_sum_nats) / sum(steps) as kl_nats,
        list(steps order by prompt_id) as steps,
        list(kl_sum_nats order by prompt_id) as kl_sums_nats
    from prompt_sums
    group by model, recipe, trajectory, temperature
),

lowest as (
    select
        model,
        recipe,
        trajectory,
        any_value(n_temperatures) as n_temperatures,
        any_value(n) as n,
        any_value(n_prompts) as n_prompts,
        min(temperature) as temperature_min,
        max(temperature) as temperature_max,
        arg_min(temperature, row(kl_nats, temperature)) as temperature_lowest,
        min(kl_nats) as kl_lowest_nats,
        max(kl_nats) as kl_highest_nats
    from means
    group by model, recipe, trajectory
),

sizes as (
    select distinct n_prompts
    from means
    where n_prompts >= 5
),

resamples as (
    select
        n_prompts,
        unnest(range(400)) as resample,
        unnest(bootstrap_weights(n_prompts)) as weights
    from sizes
),

resampled as (
    select
        means.model,
        means.recipe,
        means.trajectory,
        resamples.resample,
        arg_min(
            means.temperature,
            row(resampled_share(resamples.weights, means.kl_sums_nats, means.steps), means.temperature)
        ) as temperature
    from means
    inner join resamples
        on means.n_prompts = resamples.n_prompts
    group by means.model, means.recipe, means.trajectory, resamples.resample
),

certainties as (
    select
        resampled.model,
        resampled.recipe,
        resampled.trajectory,
        avg(cast(resampled.temperature = lowest.temperature_lowest as integer)) as certainty
    from resampled
    inner join lowest
        on
            resampled.model = lowest.model
            and resampled.recipe = lowest.recipe
            and resampled.trajectory = lowest.trajectory
    group by resampled.model, resampled.recipe, resampled.trajectory
)

select
    lowest.model,
    lowest.recipe,
    lowest.trajectory,
    lowest.n_temperatures,
    lowest.n,
    lowest.n_prompts,
    lowest.temperature_min,
    lowest.temperature_max,
    lowest.temperature_lowest,
    lowest.kl_lowest_nats,
    lowest.kl_highest_nats,
    lowest.temperature_lowest in (lowest.temperature_min, lowest.temperature_max) as is_at_edge,
    certainties.certainty
from lowest
left join certainties
    on
        lowest.model = certainties.model
        and lowest.recipe = certainties.recipe
        and lowest.trajectory = certainties.trajectory
order by lowest.model, lowest.recipe, lowest.trajectory
