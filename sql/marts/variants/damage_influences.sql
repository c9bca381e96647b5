-- The contribution of each prompt or question to each comparable measure of variant_damage.
-- grain: one row per model × recipe × measure × unit.
-- key: model, recipe, measure, unit
-- inputs: decoding_at_reference, generations_without_noise, options_at_reference
-- how to read: influence is what the unit adds to the measure beyond its expected part, so that the influences of a
--   variant sum to 0. half_width_over_clusters of them is half the width of the measure's 95 % interval; the same of
--   sums of influences of several variants, paired by unit, is that of the sum of their measures. Noise variants are
--   excluded.
-- reason: two variants read the same prompts, so that the difference of their measures is more certain than either
--   measure.
-- columns:
--   measure: As in variant_damage [label]
--   unit: Prompt or question, the independent unit
--   influence: Its contribution to the measure beyond its expected part [share or nats]
with

forced as (
    select
        model,
        recipe,
        prompt_id as unit,
        count(*) as tokens,
        count_if(not is_top1_same) as changed,
        max(kl_dense_pruned_nats) filter (where step = 0) as kl_step0_nats
    from decoding_at_reference
    where trajectory = 'teacher_forced'
    group by model, recipe, prompt_id
),

-- Every measure is the sum of the amounts over the sum of the weights.
amounts as (
    select
        model,
        recipe,
        'top1_change' as measure,
        unit,
        cast(changed as double) as amount,
        tokens as weight
    from forced

    union all

    select
        model,
        recipe,
        'kl_step0_nats' as measure,
        unit,
        kl_step0_nats as amount,
        1 as weight
    from forced
    where kl_step0_nats is not null

    union all

    -- Lists unnested in one select are expanded in parallel.
    select
        model,
        recipe,
        unnest(['flipped_share', 'collapsed_share']) as measure,
        prompt_id as unit,
        unnest([cast(first_flip_step is not null as integer), cast(collapse_step is not null as integer)]) as amount,
        1 as weight
    from generations_without_noise

    union all

    select
        options.model,
        options.recipe,
        'options_changed_share' as measure,
        options.prompt_id as unit,
        cast(not options.is_argmax_same as integer) as amount,
        1 as weight
    from options_at_reference as options
)

select
    model,
    recipe,
    measure,
    unit,
    (amount - weight * sum(amount) over of_variant / sum(weight) over of_variant)
    / sum(weight) over of_variant as influence
from amounts
window of_variant as (partition by model, recipe, measure)
