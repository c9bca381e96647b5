-- How many answers change while the accuracy hardly does?
-- grain: one row per model × recipe × task × metric.
-- key: model, recipe, task, metric
-- inputs: task_comparisons, task_pairs
-- how to read: every sample is paired with the dense model's answer to the same request, as the metric reads it. An
--   answer is flipped if the two differ, also if only one side has an answer. lost are right answers that became wrong,
--   gained the reverse. hidden_flips is what the change of accuracy does not show: flipped − |lost − gained|. mcnemar_p
--   is the probability of a split between lost and gained at least as uneven if pruning had no direction, 1 if no
--   answer changed. Samples without a right answer count as flipped or not, but not in the accuracies. The dense recipe
--   and noise variants are excluded.
-- reason: two models of equal accuracy need not agree on a single question, and users notice the flips (2407.09141).
-- columns:
--   flipped: Samples whose answer changed [samples]
--   flip_share: Share of samples whose answer changed [share] = flipped/n_samples
--   flip_share_low: Lower end of its 95 % Wilson interval [share]
--   hidden_flips: Changed answers that the accuracy does not show [samples] = flipped − |lost − gained|
with counted as (
    select
        model, recipe, task, metric,
        count(*) filter (where is_flipped) as flipped
    from task_pairs
    where scoring <> 'rolling'
    group by all
)

select
    compared.model, compared.recipe, compared.task, compared.metric, compared.n_samples, compared.n_graded,
    compared.accuracy_dense, compared.accuracy_pruned, compared.accuracy_change, compared.lost, compared.gained,
    counted.flipped,
    counted.flipped / compared.n_samples as flip_share,
    wilson_interval(counted.flipped, compared.n_samples)[1] as flip_share_low,
    wilson_interval(counted.flipped, compared.n_samples)[2] as flip_share_high,
    counted.flipped - abs(compared.lost - compared.gained) as hidden_flips,
    compared.mcnemar_p
from task_comparisons as compared
inner join counted using (model, recipe, task, metric)
order by compared.model, compared.task, compared.metric, compared.recipe
