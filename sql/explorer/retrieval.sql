-- Retrieval scores, and those of the dense model.
-- grain: one row per model × recipe × data set × metric.
-- inputs: stg_retrieval_scores
select
    one.model, one.recipe, one.data_set, one.metric, one.value, one.standard_error,
    dense.value as value_dense,
    one.n
from stg_retrieval_scores as one
left join stg_retrieval_scores as dense
    on
        one.model = dense.model and one.data_set = dense.data_set and one.metric = dense.metric
        and dense.recipe = 'dense'
order by one.model, one.recipe, one.data_set, one.metric
