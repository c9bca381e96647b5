-- The table retrieval_scores as other views read it: every column by name, and columns computed from a single row.
-- grain: one row per variant × retrieval data set × metric.
-- key: model, recipe, data_set, metric
-- inputs: retrieval_scores
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
-- columns:
--   variant: Name of the variant = model || '@' || recipe
select
    model,
    recipe,
    model || '@' || recipe as variant,
    data_set,
    metric,
    value,
    standard_error,
    n,
    data_hash
from retrieval_scores
