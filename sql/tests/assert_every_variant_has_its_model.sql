-- Every variant's model stands in models.
-- grain: one row per variant without one.
-- inputs: stg_variants, stg_models
-- reason: sizes and hashes of the model explain the variant's figures.
select
    variants.model,
    variants.recipe
from stg_variants as variants
left join stg_models as models
    on variants.model = models.model
where models.model is null
