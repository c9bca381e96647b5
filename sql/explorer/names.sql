-- Variants by model, the dense one first.
-- grain: one row per model × recipe, dense included.
-- inputs: stg_variants
select model, recipe
from stg_variants
where not is_noise
order by model, recipe <> 'dense', recipe
