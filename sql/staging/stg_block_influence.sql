-- The table block_influence as other views read it: every column by name.
-- grain: one row per model × layer × unit (attn, mlp or the whole block).
-- key: model, layer, unit
-- inputs: block_influence
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
select
    model,
    layer,
    unit,
    influence,
    drop_order,
    orth_rel_mean,
    tokens,
    calibration_hash
from block_influence
