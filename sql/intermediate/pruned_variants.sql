-- The variants that change weights: neither the dense recipe nor a noise variant.
-- grain: one row per pruned or quantized variant.
-- key: model, recipe
-- inputs: stg_variants
-- how to read: the columns are those of stg_variants that describe the recipe and its result.
-- reason: single definition of the variants that a comparison of recipes is about.
select
    model,
    recipe,
    method,
    parameters_json,
    sparsity,
    sublayers_dropped,
    calibration_hash
from stg_variants
where recipe <> 'dense' and not is_noise
