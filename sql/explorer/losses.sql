-- Losses of each variant in tasks, by kind.
-- grain: one row per pruned variant × measure × kind.
-- inputs: task_losses
select
    model, recipe, measure, kind, n_tasks, n_answers, loss, loss_low, loss_high, noise_loss, loss_beyond_noise,
    loss_beyond_noise_low, loss_beyond_noise_high
from task_losses
order by all
