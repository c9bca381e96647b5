-- The table variants as other views read it: every column by name, and columns computed from a single row.
-- grain: one row per variant (model × recipe).
-- key: model, recipe
-- inputs: variants
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
-- columns:
--   variant: Name of the variant = model || '@' || recipe
--   sublayers_dropped_count: Dropped sublayers [sublayers] = len(sublayers_dropped)
--   is_noise: Whether nothing is pruned and the dense model is only computed in another way = method = 'noise'
select
    model,
    recipe,
    model || '@' || recipe as variant,
    method,
    parameters_json,
    recipe_hash,
    weights_prunable,
    weights_masked,
    weights_updated,
    sparsity,
    parameters_removed,
    parameters_removed_share,
    bytes_removed,
    sublayers_dropped,
    drop_order,
    drop_scores,
    facts_json,
    sublayers_changed,
    variant_hash,
    calibration_hash,
    file_bytes,
    seconds,
    peak_memory_bytes,
    cast(len(sublayers_dropped) as integer) as sublayers_dropped_count,
    method = 'noise' as is_noise
from variants
