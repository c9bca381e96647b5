-- The table speed as other views read it: every column by name, and columns computed from a single row.
-- grain: one row per variant × batch × length × new tokens.
-- key: model, recipe, batch, length, new_tokens
-- inputs: speed
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
-- columns:
--   variant: Name of the variant = model || '@' || recipe
select
    model,
    recipe,
    model || '@' || recipe as variant,
    batch,
    length,
    new_tokens,
    repeats,
    machine,
    sublayers_skipped,
    prefill_tokens_per_second,
    decode_tokens_per_second,
    seconds_to_first_token,
    peak_memory_bytes,
    prefill_tokens_per_second_dense,
    decode_tokens_per_second_dense,
    seconds_to_first_token_dense,
    peak_memory_bytes_dense
from speed
