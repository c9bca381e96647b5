-- The rows of task_group_scores without those of noise variants.
-- grain: one row per variant × task group × kind × metric, noise left out.
-- key: model, recipe, task_group, kind, metric
-- inputs: task_group_scores, noise_variants
-- how to read: the columns of task_group_scores that other views read. The dense recipe is included.
-- reason: single place that excludes noise from the scores of tasks.
select
    scores.model,
    scores.recipe,
    scores.task_group,
    scores.kind,
    scores.metric,
    scores.n_tasks,
    scores.score,
    scores.score_se,
    scores.n,
    scores.is_higher_better
from task_group_scores as scores
anti join noise_variants using (model, recipe)
