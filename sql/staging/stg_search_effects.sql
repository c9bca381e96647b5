-- The table search_effects as other views read it: every column by name, and columns computed from a single row.
-- grain: one row per model × search × sublayer × matrix × treatment.
-- key: model, search, layer, sublayer, matrix, treatment
-- inputs: search_effects
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
-- columns:
--   place: Name of the sublayer in allocations, such as attn.3 = sublayer || '.' || layer
select
    model,
    search,
    layer,
    sublayer,
    sublayer || '.' || layer as place,
    matrix,
    treatment,
    parameters_removed,
    bytes_removed,
    milliseconds_removed,
    kl_dense_pruned_nats,
    kl_low,
    kl_high,
    one_minus_cos_h,
    n_items,
    item_kl,
    seconds
from search_effects
