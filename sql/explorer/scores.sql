-- Task scores, and those of the dense model.
-- grain: one row per model × recipe × task × metric.
-- inputs: stg_task_scores
-- how to read: value_low and value_high are Wilson's 95 % interval of a share, NULL for other metrics.
with scored as (
    select
        *,
        if(value between 0 and 1, interval_of_score(value, standard_error, n, metric), null) as ends
    from stg_task_scores
)

select
    one.model, one.recipe, one.task, one.metric, one.value, one.standard_error,
    dense.value as value_dense,
    dense.standard_error as standard_error_dense,
    one.n,
    one.ends[1] as value_low,
    one.ends[2] as value_high
from scored as one
left join stg_task_scores as dense
    on one.model = dense.model and one.task = dense.task and one.metric = dense.metric and dense.recipe = 'dense'
order by one.model, one.recipe, one.task, one.metric
