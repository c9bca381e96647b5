-- How many answers change while the accuracy hardly does?
-- grain: one row per model × recipe × task × way of scoring.
-- key: model, recipe, task, scoring
-- inputs: stg_task_samples, noise_variants
-- how to read: every sample is paired with the dense model's. An answer is flipped where the two differ (no answer
--   differs from any); lost are right answers that became wrong, gained the reverse. hidden_flips is what the change of
--   accuracy does not show: flipped − |lost − gained|. mcnemar_p is the chance of a split between lost and gained at
--   least as uneven if pruning had no direction. Samples without a right answer count as flipped or not, but not in the
--   accuracies. Dense and noise are left out.
-- reason: two models of equal accuracy need not agree on a single question; users feel the flips.
-- columns:
--   n_samples: Samples that both models answered [samples]
--   n_graded: Of these, those with a right answer [samples]
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
--   mcnemar_p: Exact two-sided McNemar test of lost against gained; NULL where nothing was lost or gained [probability]
with

counted as (
    select
        pruned.model,
        pruned.recipe,
        pruned.task,
        pruned.scoring,
        count(*) as n_samples,
        count(*) filter (where pruned.is_correct is not null and dense.is_correct is not null) as n_graded,
        count(*) filter (where dense.is_correct and pruned.is_correct is not null) as dense_correct,
        count(*) filter (where pruned.is_correct and dense.is_correct is not null) as pruned_correct,
        count(*) filter (where dense.is_correct and not pruned.is_correct) as lost,
        count(*) filter (where pruned.is_correct and not dense.is_correct) as gained,
        count(*) filter (where pruned.answer is distinct from dense.answer) as flipped
    from stg_task_samples as pruned
    inner join stg_task_samples as dense
        on
            pruned.model = dense.model
            and pruned.task = dense.task
            and pruned.sample_id = dense.sample_id
            and pruned.scoring = dense.scoring
            and dense.recipe = 'dense'
    anti join noise_variants
        on pruned.model = noise_variants.model and pruned.recipe = noise_variants.recipe
    where pruned.recipe <> 'dense'
    group by pruned.model, pruned.recipe, pruned.task, pruned.scoring
)

select
    model,
    recipe,
    task,
    scoring,
    n_samples,
    n_graded,
    dense_correct / nullif(n_graded, 0) as accuracy_dense,
    pruned_correct / nullif(n_graded, 0) as accuracy_pruned,
    (pruned_correct - dense_correct) / nullif(n_graded, 0) as accuracy_change,
    lost,
    gained,
    flipped,
    flipped / n_samples as flip_share,
    wilson_interval(flipped, n_samples)[1] as flip_share_low,
    wilson_interval(flipped, n_samples)[2] as flip_share_high,
    flipped - abs(lost - gained) as hidden_flips,
    mcnemar_exact(lost, gained) as mcnemar_p
from counted
order by model, task, scoring, recipe
