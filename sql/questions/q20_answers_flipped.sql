-- How many answers change while the accuracy hardly does?
-- grain: one row per model × recipe × task × metric.
-- key: model, recipe, task, metric
-- inputs: task_pairs
-- how to read: every sample is paired with the dense model's answer to the same request, as the metric reads it. An
--   answer is flipped if the two differ, also if only one side has an answer; lost are right answers that became wrong,
--   gained the reverse. hidden_flips is what the change of accuracy does not show: flipped − |lost − gained|. mcnemar_p
--   is the probability of a split between lost and gained at least as uneven if pruning had no direction, 1 if no
--   answer changed. Samples without a right answer count as flipped or not, but not in the accuracies. The dense recipe
--   and noise variants are excluded.
-- reason: two models of equal accuracy need not agree on a single question, and users notice the flips (2407.09141).
-- columns:
--   n_samples: Samples that both models answered [samples]
--   n_graded: Those with a right answer [samples]
--   accuracy_dense: Share of the graded that the dense model answers right [share]
--   accuracy_pruned: Share of the graded that the variant answers right [share]
--   accuracy_change: Paired change of the accuracy [share] = accuracy_pruned − accuracy_dense
--   lost: Right answers that became wrong [samples]
--   gained: Wrong answers that became right [samples]
--   flipped: Samples whose answer changed [samples]
--   flip_share: Share of samples whose answer changed [share] = flipped/n_samples
--   flip_share_low: Lower end of its 95 % Wilson interval [share]
--   flip_share_high: Upper end of its 95 % Wilson interval [share]
--   hidden_flips: Changed answers that the accuracy does not show [samples] = flipped − |lost − gained|
--   mcnemar_p: Exact two-sided McNemar test of lost against gained; NULL if nothing is graded [probability]
with counted as (
    select
        model, recipe, task, metric,
        count(*) as n_samples,
        count(is_lost) as n_graded,
        count(*) filter (where is_correct_dense) as dense_correct,
        count(*) filter (where is_correct_pruned) as pruned_correct,
        count(*) filter (where is_lost) as lost,
        count(*) filter (where is_gained) as gained,
        count(*) filter (where is_flipped) as flipped
    from task_pairs
    where scoring <> 'rolling'
    group by all
)

select
    model, recipe, task, metric, n_samples, n_graded,
    dense_correct / nullif(n_graded, 0) as accuracy_dense,
    pruned_correct / nullif(n_graded, 0) as accuracy_pruned,
    (pruned_correct - dense_correct) / nullif(n_graded, 0) as accuracy_change,
    lost, gained, flipped,
    flipped / n_samples as flip_share,
    wilson_interval(flipped, n_samples)[1] as flip_share_low,
    wilson_interval(flipped, n_samples)[2] as flip_share_high,
    flipped - abs(lost - gained) as hidden_flips,
    case when n_graded > 0 then coalesce(mcnemar_exact(lost, gained), 1.0) end as mcnemar_p
from counted
order by model, task, metric, recipe
