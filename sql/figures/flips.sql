-- Answers that pruning changed: lost, gained, and one wrong answer for another.
-- grain: one row per model × task × metric × recipe.
-- inputs: q20_answers_flipped
select
    model, recipe, task, metric, n_samples, lost, gained, flipped,
    greatest(flipped - lost - gained, 0) as other,
    flip_share, flip_share_low, flip_share_high, accuracy_change, hidden_flips, mcnemar_p
from q20_answers_flipped
order by model, task, metric, recipe
