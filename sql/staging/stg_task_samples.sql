-- The table task_samples as the marts read it: every column by name, and what follows from it at once.
-- grain: one row per variant × task × sample × way of scoring.
-- key: model, recipe, task, sample_id, scoring
-- inputs: task_samples
-- reason: one place that names the stored columns, so that a renamed one breaks here and nowhere else.
-- columns:
--   variant: Name of the variant = model || '@' || recipe
select
    model,
    recipe,
    model || '@' || recipe as variant,
    task,
    sample_id,
    scoring,
    question,
    target,
    answer,
    is_correct,
    option_log_likelihoods,
    option_log_likelihoods_per_byte,
    target_index,
    tokens_generated,
    ended,
    distinct_2,
    repeat_rate
from task_samples
