-- The table speed as the marts read it: every column by name, and what follows from it at once.
-- grain: one row per variant × batch × length × new tokens.
-- key: model, recipe, batch, length, new_tokens
-- inputs: speed
-- reason: one place that names the stored columns, so that a renamed one breaks here and nowhere else.
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
