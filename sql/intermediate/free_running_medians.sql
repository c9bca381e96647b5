-- The median KL of each variant over the steps of its own texts, with Woodruff's interval.
-- grain: one row per model × recipe with a free-running text.
-- key: model, recipe
-- inputs: decoding_at_reference
-- how to read: the ends of the interval are the KL of two measured steps: of all steps in order, those that lie half
--   the width of the interval of the share of steps above the median below and above the middle. That width is by
--   Student's t over prompts. An interval on a linear or logarithmic scale would reach far beyond all data: a text has
--   a KL near 0.01 nats up to its first flip, and near 10 after it. The ends are NULL below 6 prompts, and where they
--   would lie before the first or behind the last step. Noise variants are excluded.
-- reason: variant_damage shows the interval, and damage_influences needs how far a share of steps moves the median.
-- columns:
--   median_nats: Median KL(dense‖pruned), each model on its own tokens [nats]
--   low_nats: Lower end of the median's 95 % interval [nats]
--   high_nats: Upper end of the median's 95 % interval [nats]
--   nats_per_share: By how much the median moves when the share of steps above it changes by 1, mean over the
--     interval [nats]
with

steps as (
    select
        model,
        recipe,
        prompt_id,
        kl_dense_pruned_nats as kl_nats,
        median(kl_dense_pruned_nats) over (partition by model, recipe) as median_nats
    from decoding_at_reference
    where trajectory = 'free_running'
),

prompts as (
    select
        model,
        recipe,
        any_value(median_nats) as median_nats,
        count_if(kl_nats > median_nats) as steps_above,
        count_if(kl_nats = median_nats) as steps_equal,
        count(*) as steps,
        list(kl_nats) as kls_nats
    from steps
    group by model, recipe, prompt_id
),

shares as (
    select
        model,
        recipe,
        any_value(median_nats) as median_nats,
        half_width_of_mean(steps_above + steps_equal / 2.0, steps) as half_width,
        -- Many steps that equal the median leave open whether they count as above it.
        case
            when count(*) >= 6
                then
                    greatest(
                        half_width_of_mean(steps_above, steps), half_width_of_mean(steps_above + steps_equal, steps)
                    )
        end as largest_half_width,
        list_sort(flatten(list(kls_nats))) as kls_nats
    from prompts
    group by model, recipe
),

ends as (
    select
        model,
        recipe,
        median_nats,
        half_width,
        case
            when largest_half_width < 0.5
                then kls_nats[cast(1 + floor((0.5 - largest_half_width) * len(kls_nats)) as bigint)]
        end as low_nats,
        case
            when largest_half_width < 0.5
                then kls_nats[cast(ceil((0.5 + largest_half_width) * len(kls_nats)) as bigint)]
        end as high_nats
    from shares
)

select
    model,
    recipe,
    median_nats,
    low_nats,
    high_nats,
    (high_nats - low_nats) / (2 * half_width) as nats_per_share
from ends
