-- When do sampled texts part from the dense model's, do the distributions predict when, and does it cost answers?
-- grain: one row per model × recipe.
-- key: model, recipe
-- inputs: sampling_summary
-- how to read: dense and pruned model draw with the same random numbers. first_flip_step_median is measured, and
--   _expected follows from the probabilities of every step; texts_flipped and flips_expected must be close to each
--   other. equal_share_noise is the lowest share of texts that stay equal under rounding alone; NULL if no noise was
--   sampled. A difference of correct answers whose interval contains 0 shows no loss. The dense recipe and noise
--   variants are excluded.
-- reason: a greedy text leaves the dense one at the first small margin; in use, texts are drawn.
-- columns:
--   equal_share_noise: Lowest share of texts that never part under rounding alone [share]
with floors as (
    select
        model,
        min(equal_share) as equal_share_noise
    from sampling_summary
    where is_noise
    group by all
)

select
    variants.model, variants.recipe, variants.prompts, variants.texts, variants.texts_flipped, variants.flips_expected,
    variants.first_flip_step_median, variants.first_flip_step_median_low, variants.first_flip_step_median_high,
    variants.first_flip_step_median_expected, variants.equal_share, variants.equal_share_low, variants.equal_share_high,
    variants.equal_share_expected, floors.equal_share_noise, variants.correct_difference,
    variants.correct_difference_low, variants.correct_difference_high, variants.collapsed_difference,
    variants.collapsed_difference_low, variants.collapsed_difference_high
from sampling_summary as variants
left join floors using (model)
where variants.recipe <> 'dense' and not variants.is_noise
order by variants.model, variants.total_variation_mean, variants.recipe
