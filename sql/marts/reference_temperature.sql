-- The one temperature at which a variant is summarised: T = 1 where it was measured, else the nearest to 1.
-- grain: one row per model × recipe.
-- key: model, recipe
-- inputs: stg_decoding_steps
-- how to read: of two temperatures equally far from 1 the lower one is taken.
-- reason: a summary must not mix temperatures, and T = 1 is the distribution that the model was trained to give.
select
    model,
    recipe,
    arg_min(temperature, row(abs(temperature - 1), temperature)) as temperature
from stg_decoding_steps
group by model, recipe
