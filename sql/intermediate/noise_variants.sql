-- The variants that are a noise floor: the dense model computed in another way, nothing pruned.
-- grain: one row per model × noise recipe.
-- key: model, recipe
-- inputs: stg_variants
-- how to read: every view that compares recipes leaves these out; noise_floor and noise_at_output are about them.
-- reason: one place that says which recipes are no recipes.
select
    model,
    recipe
from stg_variants
where is_noise
