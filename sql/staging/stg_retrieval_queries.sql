-- The table retrieval_queries as other views read it: every column by name, and columns computed from a single row.
-- grain: one row per variant × retrieval data set × judged query × metric.
-- key: model, recipe, data_set, query_id, metric
-- inputs: retrieval_queries
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
-- columns:
--   variant: Name of the variant = model || '@' || recipe
select
    model,
    recipe,
    model || '@' || recipe as variant,
    data_set,
    query_id,
    metric,
    value,
    data_hash
from retrieval_queries
