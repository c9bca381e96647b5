-- The temperature at which each variant is summarised: T = 1 if it was measured, else the nearest to 1.
-- grain: one row per model × recipe, dense and noise variants included.
-- key: model, recipe
-- inputs: stg_decoding_steps
-- how to read: if two temperatures are equally far from 1, it is the lower one.
-- reason: a claim needs noise variants as its null, and reference_temperature leaves them out.
select
    model, recipe,
    arg_min(temperature, row(abs(temperature - 1), temperature)) as temperature
from stg_decoding_steps
group by all
