-- Recipe and result of each variant.
-- grain: one row per model × recipe.
-- inputs: stg_variants
select
    model,
    recipe,
    method,
    parameters_json,
    recipe_hash,
    weights_prunable,
    weights_masked,
    weights_updated,
    sparsity,
    parameters_removed,
    parameters_removed_share,
    sublayers_dropped,
    sublayers_changed,
    facts_json,
    variant_hash,
    calibration_hash,
    file_bytes,
    seconds,
    peak_memory_bytes
from stg_variants
where not is_noise
order by model, recipe
