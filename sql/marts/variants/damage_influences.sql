-- The contribution of each prompt or question to each comparable measure of variant_damage.
-- grain: one row per model × recipe × measure × unit.
-- key: model, recipe, measure, unit
-- inputs: decoding_at_reference, generations_without_noise, options_at_reference
-- how to read: influence is what the unit adds to the measure beyond its expected part, so a variant's influences sum
--   to 0. half_width_over_clusters of them is half the width of the measure's 95 % interval. For a sum of several
--   variants' measures, add their influences by unit first. Noise variants are excluded.
-- reason: two variants read the same prompts, so the difference of their measures is more certain than either measure.
-- columns:
--   measure: As in variant_damage [label]
--   unit: Prompt or question, the independent unit
--   influence: Its contribution to the measure beyond its expected part [share or nats]
with

-- Every measure is the sum of the amounts over the sum of the weights. Row i gets entry i of every unnested list.
amounts as (
    select
        model, recipe,
        unnest(['top1_change', 'kl_step0_nats']) as measure,
        prompt_id as unit,
        unnest([
            cast(count_if(not is_top1_same) as double), max(kl_dense_pruned_nats) filter (where step = 0)
        ]) as amount,
        unnest([count(*), 1]) as weight
    from decoding_at_reference
    where trajectory = 'teacher_forced'
    group by model, recipe, prompt_id

    union all

    select
        model, recipe,
        unnest(['flipped_share', 'collapsed_share']) as measure,
        prompt_id as unit,
        unnest([cast(first_flip_step is not null as integer), cast(collapse_step is not null as integer)]) as amount,
        1 as weight
    from generations_without_noise

    union all

    select
        model, recipe,
        'options_changed_share' as measure,
        prompt_id as unit,
        cast(not is_argmax_same as integer) as amount,
        1 as weight
    from options_at_reference
)

select
    model, recipe, measure, unit,
    (amount - weight * sum(amount) over of_variant / sum(weight) over of_variant)
    / sum(weight) over of_variant as influence
from amounts
where amount is not null
window of_variant as (partition by model, recipe, measure)
