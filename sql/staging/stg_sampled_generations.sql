-- The table sampled_generations as other views read it: every column by name, and columns computed from a single row.
-- grain: one row per variant × prompt × sample.
-- key: model, recipe, prompt_id, sample
-- inputs: sampled_generations
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
-- columns:
--   variant: Name of the variant = model || '@' || recipe
select
    model,
    recipe,
    model || '@' || recipe as variant,
    prompt_id,
    sample,
    temperature,
    top_p,
    text,
    token_ids,
    first_flip_step,
    collapse_step,
    end_step,
    repeat_rate,
    distinct_1,
    distinct_2,
    answer,
    gold,
    is_correct
from sampled_generations
