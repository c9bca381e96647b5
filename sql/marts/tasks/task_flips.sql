-- The samples whose answer pruning changed.
-- grain: one row per pruned variant × task × metric × sample whose answer changed.
-- key: model, recipe, task, metric, sample_id
-- inputs: task_pairs, stg_task_samples
-- how to read: direction is lost if a right answer became wrong, gained if a wrong one became right, other if one wrong
--   answer replaced another or the right answer is not known. NULL means no answer.
-- reason: which questions a variant loses says more than their number.
-- columns:
--   direction: lost, gained or other
select
    pairs.model, pairs.recipe, pairs.task, pairs.metric, pairs.sample_id,
    case when pairs.is_lost then 'lost' when pairs.is_gained then 'gained' else 'other' end as direction,
    samples.question, samples.target, pairs.answer_dense, pairs.answer_pruned, pairs.log_likelihood_change,
    pairs.margin_change
from task_pairs as pairs
inner join stg_task_samples as samples using (model, recipe, task, sample_id, scoring)
where pairs.is_flipped or pairs.is_lost or pairs.is_gained
order by pairs.model, pairs.task, pairs.recipe, pairs.metric, pairs.sample_id
