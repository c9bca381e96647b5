-- The table imported_scores as other views read it: every column by name.
-- grain: one row per variant × results file × task or group × metric of the harness × filter.
-- key: model, recipe, source_hash, task, harness_metric, filter
-- inputs: imported_scores
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
select
    model,
    recipe,
    source_hash,
    task,
    is_group,
    harness_metric,
    filter,
    metric,
    value,
    standard_error,
    n,
    shots,
    is_higher_better,
    task_version,
    harness,
    source_file
from imported_scores
