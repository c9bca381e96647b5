-- The rows of task_answers without those of noise variants.
-- grain: one row per variant × task × metric × sample, noise left out.
-- key: model, recipe, task, metric, sample_id
-- inputs: task_answers, noise_variants
-- how to read: the columns are those of task_answers. The dense recipe is included.
-- reason: single place that excludes noise from the answers to tasks.
select
    answers.model,
    answers.recipe,
    answers.task,
    answers.metric,
    answers.scoring,
    answers.sample_id,
    answers.sample_hash,
    answers.answer,
    answers.is_correct,
    answers.target_log_likelihood,
    answers.target_margin,
    answers.weight
from task_answers as answers
anti join noise_variants using (model, recipe)
