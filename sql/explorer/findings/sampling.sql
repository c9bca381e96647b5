-- Sampled texts that part from the dense ones, as measured and as expected, and the variants that part last.
-- grain: one row per model with sampled texts of pruned variants.
-- inputs: sampling_summary
with ranked as (
    select
        *,
        rank() over (
            partition by model order by first_flip_step_median desc nulls first, equal_share desc
        ) as place
    from sampling_summary
    where recipe <> 'dense' and not is_noise
)

select
    model,
    sum(texts)::bigint as texts,
    sum(texts_flipped)::bigint as texts_flipped,
    sum(flips_expected) as flips_expected,
    list(recipe order by recipe) filter (where place = 1) as last_recipes,
    max(first_flip_step_median) filter (where place = 1) as last_step,
    max(first_flip_step_median_expected) filter (where place = 1) as last_step_expected,
    max(equal_share) filter (where place = 1) as last_equal_share
from ranked
group by all
order by model
