-- Gained and lost answers against the dense model, with exact tests.
-- grain: one row per pruned variant × task × metric.
-- inputs: task_comparisons
select
    model, recipe, task, metric, n_samples, accuracy_dense, accuracy_pruned, accuracy_change, accuracy_change_low,
    accuracy_change_high, lost, gained, mcnemar_p, holm_p
from task_comparisons
order by model, recipe, task, metric
