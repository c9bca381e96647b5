-- The share of sampled texts that are still the dense model's own, step by step: measured and expected.
-- grain: one row per model × recipe × step.
-- inputs: sampling_survival, noise_variants
-- how to read: of a model with more than 64 steps, every n-th is drawn, so that at most 64 are, and the last. Dense and
--   noise variants are left out.
select
    curves.model,
    curves.recipe,
    curves.step,
    curves.prompts,
    curves.texts,
    curves.equal_share,
    curves.equal_share_low,
    curves.equal_share_high,
    curves.equal_share_expected,
    curves.equal_share_expected_low,
    curves.equal_share_expected_high
from sampling_survival as curves
anti join noise_variants
    on curves.model = noise_variants.model and curves.recipe = noise_variants.recipe
where curves.recipe <> 'dense'
qualify
    curves.step % (max(curves.step) over (partition by curves.model) // 64 + 1) = 0
    or curves.step = max(curves.step) over (partition by curves.model)
order by curves.model, curves.recipe, curves.step
