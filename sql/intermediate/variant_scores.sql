-- The scores of each variant and of the dense model: the means over tasks, and the share of unchanged top tokens.
-- grain: one row per model × recipe × measure, dense included in tasks, noise left out.
-- key: model, recipe, measure
-- inputs: score_means, paper_variants
-- how to read: top1 is the share of teacher-forced steps with the dense model's most likely token, its error over
--   prompts; the other measures are those of score_means.
-- reason: figures show both kinds of score beside each other.
-- columns:
--   measure: non_generative, generative or agreement, as in score_means, or top1 [label]
--   score: Mean over tasks, or share of steps [share]
--   score_se: Its standard error, over samples or prompts [share]
--   n_tasks: Tasks, a group of the harness as one; NULL for top1 [tasks]
select
    model,
    recipe,
    measure,
    score,
    score_se,
    n_tasks
from score_means

union all

select
    model,
    recipe,
    'top1' as measure,
    top1_agreement as score,
    top1_agreement_se as score_se,
    null as n_tasks
from paper_variants
where top1_agreement is not null
