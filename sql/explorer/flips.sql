-- Samples whose answer pruning changed.
-- grain: one row per pruned variant × task × metric × changed sample.
-- inputs: task_flips
select model, recipe, task, metric, sample_id, direction, question, target, answer_dense, answer_pruned
from task_flips
order by model, recipe, task, metric, direction <> 'lost', sample_id
