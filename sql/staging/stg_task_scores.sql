-- The table task_scores as other views read it: every column by name, and columns computed from a single row.
-- grain: one row per variant × task × metric.
-- key: model, recipe, task, metric
-- inputs: task_scores
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
-- columns:
--   variant: Name of the variant = model || '@' || recipe
--   task_group: Name of the group that brought the task, its own where it is of none = coalesce(task_group, task)
select
    model,
    recipe,
    model || '@' || recipe as variant,
    task,
    coalesce(task_group, task) as task_group,
    metric,
    kind,
    value,
    standard_error,
    n,
    is_higher_better,
    shots,
    fewshot_seed,
    task_version,
    harness,
    task_hash
from task_scores
