-- The temperature at which each variant is summarised: T = 1 where it was measured, else the nearest to 1.
-- grain: one row per model × recipe, noise variants left out.
-- key: model, recipe
-- inputs: stg_decoding_steps, noise_variants
-- how to read: of two temperatures equally far from 1 the lower one is used. Noise variants have no row, so that a join
--   with this view excludes them.
-- reason: a summary must not mix temperatures, and T = 1 is the distribution that the model was trained to give.
select
    steps.model,
    steps.recipe,
    arg_min(steps.temperature, row(abs(steps.temperature - 1), steps.temperature)) as temperature
from stg_decoding_steps as steps
anti join noise_variants
    on steps.model = noise_variants.model and steps.recipe = noise_variants.recipe
group by steps.model, steps.recipe
