-- The table retrieval_scores as the marts read it: every column by name, and what follows from it at once.
-- grain: one row per variant × retrieval data set × metric.
-- key: model, recipe, data_set, metric
-- inputs: retrieval_scores
-- reason: one place that names the stored columns, so that a renamed one breaks here and nowhere else.
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
