-- The median KL of each variant over the steps of its own texts, with Woodruff's interval.
-- grain: one row per model × recipe with a free-running text.
-- key: model, recipe
-- inputs: decoding_at_reference
-- how to read: the share of steps above the median has a half-width over prompts; the ends are the KL of the steps that
--   this half-width is below and above the middle. They are measured values, which an interval on a scale is not:
--   before its first flip a text has a hundredth of a nat or less, after it about ten, and next to nothing between.
--   NULL where the half-width is not known, or an interval of the share would exceed 0 to 1.
-- reason: variant_damage shows the interval, and damage_influences needs how far a share of steps moves the median.
-- columns:
--   median_nats: Median KL(dense‖pruned), each model on its own tokens [nats]
--   half_width: Half the width of the 95 % interval of the share of steps above the median [share]
--   low_nats: Lower end of the median's 95 % interval [nats]
--   high_nats: Upper end of the median's 95 % interval [nats]
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
        count_if(kl_nats > median_nats) + count_if(kl_nats = median_nats) / 2.0 as steps_above,
        count(*) as steps
    from steps
    group by model, recipe, prompt_id
),

shares as (
    select
        model,
        recipe,
        any_value(median_nats) as median_nats,
        half_width_of_mean(steps_above, steps) as half_width
    from prompts
    group by model, recipe
),

sorted as (
    select
        model,
        recipe,
        list_sort(list(kl_nats)) as kls_nats
    from steps
    group by model, recipe
)

select
    shares.model,
    shares.recipe,
    shares.median_nats,
    shares.half_width,
    case
        when shares.half_width < 0.5
            then sorted.kls_nats[cast(1 + floor((0.5 - shares.half_width) * len(sorted.kls_nats)) as bigint)]
    end as low_nats,
    case
        when shares.half_width < 0.5
            then sorted.kls_nats[cast(ceil((0.5 + shares.half_width) * len(sorted.kls_nats)) as bigint)]
    end as high_nats
from shares
inner join sorted
    on shares.model = sorted.model and shares.recipe = sorted.recipe
