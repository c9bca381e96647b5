-- The table generations as other views read it: every column by name, and columns computed from a single row.
-- grain: one row per variant × prompt.
-- key: model, recipe, prompt_id
-- inputs: generations
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
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
    is_correct,
    text_fork,
    token_ids_fork,
    collapse_step_fork,
    end_step_fork,
    answer_fork,
    is_correct_fork
from generations
