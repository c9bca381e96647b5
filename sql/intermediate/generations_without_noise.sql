-- The rows of generations without those of noise variants.
-- grain: one row per variant × prompt, noise left out.
-- key: model, recipe, prompt_id
-- inputs: stg_generations, noise_variants
-- how to read: the columns of stg_generations that other views read. The dense recipe is included.
-- reason: single place that excludes noise from the generated texts.
select
    generations.model, generations.recipe, generations.prompt_id, generations.kind, generations.first_flip_step,
    generations.collapse_step, generations.is_correct, generations.repeat_rate, generations.distinct_1,
    generations.distinct_2
from stg_generations as generations
anti join noise_variants using (model, recipe)
