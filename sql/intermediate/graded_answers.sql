-- Every answer to a task that is known to be right or wrong, and to be the dense model's or not.
-- grain: one row per variant × task × metric × sample, dense and noise included.
-- key: model, recipe, task, metric, scoring, sample_id
-- inputs: task_answers, stg_task_samples
-- how to read: the metric agreement takes the dense model's own answer as the right one; samples to which the dense
--   model has no answer have no such row.
-- reason: right answers and unchanged answers are shares of the same kind, with the same intervals.
-- columns:
--   metric: Name of the metric in task_scores that the row belongs to
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
-- Agreement is by whole texts of options where there are some: letters answer the same questions once more.
qualify scoring <> 'letter' or count_if(scoring = 'full_text') over (partition by model, recipe, task) = 0
