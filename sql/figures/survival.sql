-- The share of texts that still equal the dense model's, step by step: sampled texts as measured and as expected, and
-- greedy texts, also under rounding alone.
-- grain: one row per model × recipe × step.
-- inputs: sampling_survival, greedy_survival, noise_variants
-- how to read: greedy_share_noise is the lowest share among the model's noise variants. Curves that were not measured,
--   or have ended, are NULL. If a model has more than 64 steps, every n-th is drawn, at most 64 of them, and the last.
--   Dense and noise variants have no rows of their own.
with measured as (
    select model, recipe, step
    from sampling_survival
    union
    select model, recipe, step
    from greedy_survival
),

horizons as (
    select distinct model, step
    from measured
),

compared as (
    select distinct model, recipe
    from measured
),

noise as (
    select
        model, step,
        min(equal_share) as greedy_share_noise
    from greedy_survival
    where is_noise
    group by all
)

select
    compared.model, compared.recipe, horizons.step, sampled.prompts, sampled.texts, sampled.equal_share,
    sampled.equal_share_low, sampled.equal_share_high, sampled.equal_share_expected, sampled.equal_share_expected_low,
    sampled.equal_share_expected_high, greedy.texts_at_risk,
    greedy.equal_share as greedy_share,
    greedy.equal_share_low as greedy_share_low,
    greedy.equal_share_high as greedy_share_high,
    noise.greedy_share_noise
from compared
inner join horizons using (model)
left join sampling_survival as sampled using (model, recipe, step)
left join greedy_survival as greedy using (model, recipe, step)
left join noise using (model, step)
anti join noise_variants using (model, recipe)
where compared.recipe <> 'dense'
qualify
    horizons.step % (max(horizons.step) over (partition by compared.model) // 64 + 1) = 0
    or horizons.step = max(horizons.step) over (partition by compared.model)
order by compared.model, compared.recipe, horizons.step
