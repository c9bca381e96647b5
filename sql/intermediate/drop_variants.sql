-- The variants that drop a number of sublayers or blocks, with that number.
-- grain: one row per variant that drops a stated number of units.
-- key: model, recipe
-- inputs: stg_variants
-- how to read: units are attention or MLP sublayers, or whole blocks, as method says.
-- reason: single place that reads the number of drops from the parameters of a recipe.
-- columns:
--   chosen_by: Criterion that chose the units, such as influence; unknown if the recipe does not say [label]
--   k: Number of dropped units [units]
select
    model, recipe, method,
    coalesce(json_extract_string(try_cast(parameters_json as json), '$.by'), 'unknown') as chosen_by,
    cast(json_extract_string(try_cast(parameters_json as json), '$.count') as integer) as k
from stg_variants
where
    method in ('attn-drop', 'mlp-drop', 'attn+mlp-drop', 'block-drop')
    and json_extract(try_cast(parameters_json as json), '$.count') is not null
