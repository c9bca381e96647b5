-- The table mask_samples as other views read it: every column by name, and columns computed from a single row.
-- grain: one row per variant × weight matrix inside the layers.
-- key: model, recipe, layer, sublayer, module
-- inputs: mask_samples
-- how to read: kept is kept_bits as a bit string: bit_count(a.kept & b.kept) counts the places that both keep.
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
-- columns:
--   variant: Name of the variant = model || '@' || recipe
--   kept: kept_bits as a bit string [bits] = cast(kept_bits as bit)
select
    model,
    recipe,
    model || '@' || recipe as variant,
    layer,
    sublayer,
    module,
    weights,
    sampled,
    kept_bits,
    cast(kept_bits as bit) as kept
from mask_samples
