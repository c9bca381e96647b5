-- Losses of each variant in tasks, by kind.
-- grain: one row per pruned variant × measure × kind.
-- inputs: task_losses
select
    model,
    recipe,
    measure,
    kind,
    n_tasks,
    loss,
    loss_se
from task_losses
order by all
