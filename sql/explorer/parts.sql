-- First step at which each text differs from the dense one, and the sublayer that causes it.
-- grain: one row per pruned variant × prompt whose text differs.
-- inputs: first_divergent_layer
select model, recipe, prompt_id, step, layer, sublayer, from_layer, from_sublayer
from first_divergent_layer
order by model, recipe, prompt_id
