-- The table hidden_states as other views read it: every column by name, and columns computed from a single row.
-- grain: one row per variant × prompt × position × layer × sublayer × scope.
-- key: model, recipe, prompt_id, position, layer, sublayer, scope
-- inputs: hidden_states
-- reason: single place that names the stored columns, so that a renamed column breaks only this view; entries is the
--   stream or its shift with the scale multiplied in.
-- columns:
--   variant: Name of the variant = model || '@' || recipe
--   entries: The stream or its shift before the final norm [activation] = state · scale
select
    model,
    recipe,
    model || '@' || recipe as variant,
    prompt_id,
    position,
    layer,
    sublayer,
    scope,
    scale,
    state,
    list_transform(state, lambda x: x * scale) as entries
from hidden_states
