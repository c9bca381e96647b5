-- The variants that change weights: neither the dense recipe nor a noise variant.
-- grain: one row per pruned or quantized variant.
-- key: model, recipe
-- inputs: stg_variants
-- how to read: the columns of stg_variants that other views read.
-- reason: single definition of the variants that a comparison of recipes is about.
select model, recipe, method, parameters_json, sublayers_dropped, calibration_hash
from stg_variants
where recipe <> 'dense' and not is_noise
