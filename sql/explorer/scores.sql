-- Task scores, and those of the dense model.
-- grain: one row per model × recipe × task × metric.
-- inputs: stg_task_scores
select
    one.model,
    one.recipe,
    one.task,
    one.metric,
    one.kind,
    one.value,
    one.standard_error,
    one.n,
    dense.value as value_dense,
    dense.standard_error as standard_error_dense
from stg_task_scores as one
left join stg_task_scores as dense
    on one.model = dense.model and one.task = dense.task and one.metric = dense.metric and dense.recipe = 'dense'
order by one.model, one.recipe, one.task, one.metric
