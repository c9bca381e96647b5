-- The temperature at which each variant is summarised: T = 1 if it was measured, else the nearest to 1.
-- grain: one row per model × recipe, dense and noise variants included.
-- key: model, recipe
-- inputs: stg_decoding_steps
-- how to read: the lower one of two temperatures that are equally far from 1.
-- reason: reference_temperature leaves the noise out; a claim needs it as its null.
select
    model, recipe,
    arg_min(temperature, row(abs(temperature - 1), temperature)) as temperature
from stg_decoding_steps
group by all
