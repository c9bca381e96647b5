-- Recipe and result of each variant.
-- grain: one row per model × recipe.
-- inputs: stg_variants, stg_models
select
    variants.model, variants.recipe, variants.method,
    models.weight_format as dense_weight_format,
    variants.parameters_json, variants.recipe_hash, variants.weights_prunable, variants.weights_masked,
    variants.weights_updated, variants.sparsity, variants.parameters_removed, variants.parameters_removed_share,
    variants.sublayers_dropped, variants.sublayers_changed, variants.facts_json, variants.variant_hash,
    variants.calibration_hash, variants.file_bytes, variants.seconds, variants.peak_memory_bytes
from stg_variants as variants
left join stg_models as models using (model)
where not variants.is_noise
order by variants.model, variants.recipe
