-- The noise variants: the dense model computed in another way, with nothing pruned.
-- grain: one row per model × noise recipe.
-- key: model, recipe
-- inputs: stg_variants
-- how to read: every view that compares recipes excludes these; noise_floor and noise_at_output are about them.
-- reason: single definition of noise-floor recipes.
select model, recipe
from stg_variants
where is_noise
