-- Every graded answer to a task: whether it is right, and whether it is the dense model's answer.
-- grain: one row per variant × task × metric × sample, dense and noise included.
-- key: model, recipe, task, metric, scoring, sample_id
-- inputs: task_answers, stg_task_samples
-- how to read: the metric agreement takes the dense model's own answer as the right one; a sample without a dense
--   answer has no such row.
-- reason: right answers and unchanged answers are shares of the same kind, with the same intervals.
-- columns:
--   is_right: Whether the answer is the right one, or under agreement the dense model's
select
    model, recipe, task, metric, scoring, sample_id, sample_hash,
    is_correct as is_right
from task_answers
where is_correct is not null

union all

select
    model, recipe, task,
    'agreement' as metric,
    scoring, sample_id, sample_hash,
    is_answer_same as is_right
from stg_task_samples
where is_answer_same is not null and scoring in ('full_text', 'greedy', 'letter')
-- If options were scored as whole texts, agreement uses only these: letters answer the same questions again.
qualify scoring <> 'letter' or count_if(scoring = 'full_text') over (partition by model, recipe, task) = 0
