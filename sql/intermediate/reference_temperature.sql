-- The temperature at which each variant is summarised: T = 1 if it was measured, else the nearest to 1.
-- grain: one row per model × recipe, noise variants left out.
-- key: model, recipe
-- inputs: variant_temperatures, noise_variants
-- how to read: noise variants have no row, so a join with this view excludes them.
-- reason: a summary must not mix temperatures, and T = 1 is the distribution that the model was trained to give.
select temperatures.model, temperatures.recipe, temperatures.temperature
from variant_temperatures as temperatures
anti join noise_variants using (model, recipe)
