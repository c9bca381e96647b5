-- The scores of each variant and of the dense model: the means over tasks, and the share of unchanged top tokens.
-- grain: one row per model × recipe × measure, dense included in tasks, noise left out.
-- key: model, recipe, measure
-- inputs: score_means, top1_changes
-- how to read: top1 is the share of teacher-forced steps with the dense model's most likely token, as in
--   top1_changes; the other measures are those of score_means.
-- reason: figures show both kinds of score together.
-- columns:
--   measure: non_generative, generative or agreement, as in score_means, or top1 [label]
--   score: Mean over tasks, or share of steps [share]
--   score_low: Lower end of its 95 % interval, Wilson's, over samples or prompts [share]
--   n_tasks: Tasks, a group of the harness as one; NULL for top1 [tasks]
select model, recipe, measure, score, score_low, score_high, n_tasks
from score_means

union all

select
    model, recipe,
    'top1' as measure,
    1 - top1_change as score,
    -- The dense model always agrees with itself.
    case when recipe = 'dense' then 1 else 1 - top1_change_high end as score_low,
    1 - top1_change_low as score_high,
    null as n_tasks
from top1_changes
where top1_change is not null
