-- The table retrieval_queries as the marts read it: every column by name, and what follows from it at once.
-- grain: one row per variant × retrieval data set × judged query × metric.
-- key: model, recipe, data_set, query_id, metric
-- inputs: retrieval_queries
-- reason: one place that names the stored columns, so that a renamed one breaks here and nowhere else.
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
