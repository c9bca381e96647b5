-- Every variant's model has a dense variant, the baseline of q12 and of the end of an answer.
-- grain: one row per variant without one.
-- inputs: stg_variants
-- reason: without the dense rows a join gives NULL instead of a comparison.
select variants.model, variants.recipe
from stg_variants as variants
left join stg_variants as dense
    on variants.model = dense.model and dense.recipe = 'dense'
where dense.model is null
