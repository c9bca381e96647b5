-- The table generations as the marts read it: every column by name, and what follows from it at once.
-- grain: one row per variant × prompt.
-- key: model, recipe, prompt_id
-- inputs: generations
-- reason: one place that names the stored columns, so that a renamed one breaks here and nowhere else.
-- columns:
--   variant: Name of the variant = model || '@' || recipe
select
    model,
    recipe,
    model || '@' || recipe as variant,
    prompt_id,
    kind,
    prompt_text,
    prompt_tokens,
    text,
    token_ids,
    first_flip_step,
    collapse_step,
    end_step,
    answer_end_step,
    repeat_rate,
    distinct_1,
    distinct_2,
    answer,
    gold,
    is_correct
from generations
