-- The table task_samples as other views read it: every column by name, and columns computed from a single row.
-- grain: one row per variant × task × sample × way of scoring.
-- key: model, recipe, task, sample_id, scoring
-- inputs: task_samples
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
-- columns:
--   variant: Name of the variant = model || '@' || recipe
select
    model,
    recipe,
    model || '@' || recipe as variant,
    task,
    sample_id,
    sample_hash,
    scoring,
    question,
    options,
    target,
    answer,
    is_correct,
    answer_lenient,
    is_correct_lenient,
    is_answer_same,
    option_log_likelihoods,
    option_log_likelihoods_per_byte,
    target_index,
    text,
    tokens_generated,
    ended,
    collapse_step,
    distinct_2,
    repeat_rate,
    verdict,
    token_ids,
    first_flip_step,
    text_fork,
    answer_fork,
    is_correct_fork,
    answer_lenient_fork,
    is_correct_lenient_fork
from task_samples
