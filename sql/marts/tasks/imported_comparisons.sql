-- Scores that lm-evaluation-harness wrote to a file, with ours of the same variant, task and metric, and its KL.
-- grain: one row per imported score.
-- key: model, recipe, source_hash, task, harness_metric, filter
-- inputs: stg_imported_scores, stg_task_scores, task_group_scores, variant_summary
-- how to read: difference is the imported value minus ours. A group of the file, such as mmlu, is compared with our
--   mean over the group of that name. Ours is NULL if the variant was not scored on a task of that name by that metric;
--   a study may name a task differently. Compare n, shots and task_version first: two scores over the same samples in
--   the same form differ by rounding alone, and is_overlapping then tests nothing. Intervals of shares are Wilson's,
--   with the number of trials that the standard error implies, or the number of samples if there is no error. All
--   others are ±1.96 standard errors. n of a perplexity counts texts in the file and units of text in ours. The dense
--   model's KL is 0.
-- reason: scores of a harness run outside a study stand next to those of the study and the variant's KL.
-- columns:
--   task: Name of the task or group of tasks
--   metric: Name of the metric in task_scores, or lm_eval/NAME
--   harness: Program that computed the imported score, with its version
--   value_imported: The score in the file [share; units of text for perplexity]
--   value_imported_low: Lower end of its 95 % interval [share; units of text for perplexity]
--   value_ours: The score in task_scores [share; units of text for perplexity]
--   value_ours_low: Lower end of its 95 % interval [share; units of text for perplexity]
--   difference: Imported minus ours [share; units of text for perplexity]
--   is_overlapping: Whether the two intervals have a value in common; NULL if one is not known
--   n_imported: Samples of the imported score; NULL if the file has no number [samples]
--   n_ours: Samples of ours, or units of a perplexity [samples]
--   shots_imported: Worked examples in front of a question of the file; NULL if it has no number [examples]
--   shots_ours: Worked examples in front of ours; NULL if the tasks of a group differ [examples]
--   task_version_imported: Version of the definition that the harness used; empty without one
--   task_version_ours: Version of ours; NULL for a group
--   kl_teacher_forced_median_nats: Median KL(dense‖pruned) of the variant on the dense model's tokens [nats]
with ours as (
    select
        model, recipe, task, metric,
        value as score,
        standard_error as score_se,
        n, shots, task_version,
        false as is_group
    from stg_task_scores

    union all

    select
        model, recipe,
        task_group as task, -- noqa: RF04
        metric, score, score_se, n, shots,
        null as task_version,
        true as is_group
    from task_group_scores
    -- If a group has tasks of two kinds, we have two scores and the harness has one.
    qualify count(*) over (partition by model, recipe, task_group, metric) = 1
),

compared as (
    select
        theirs.*,
        ours.score as value_ours,
        ours.n as n_ours,
        ours.shots as shots_ours,
        ours.task_version as task_version_ours,
        interval_of_score(theirs.value, theirs.standard_error, theirs.n, theirs.metric) as ends,
        interval_of_score(ours.score, ours.score_se, ours.n, ours.metric) as ends_ours
    from stg_imported_scores as theirs
    left join ours using (model, recipe, task, metric, is_group)
)

select
    compared.model, compared.recipe, compared.source_hash, compared.task, compared.is_group, compared.harness_metric,
    compared.filter, compared.metric,
    compared.value as value_imported,
    compared.ends[1] as value_imported_low,
    compared.ends[2] as value_imported_high,
    compared.value_ours,
    compared.ends_ours[1] as value_ours_low,
    compared.ends_ours[2] as value_ours_high,
    compared.value - compared.value_ours as difference,
    compared.ends[1] <= compared.ends_ours[2] and compared.ends_ours[1] <= compared.ends[2] as is_overlapping,
    compared.n as n_imported,
    compared.n_ours,
    compared.shots as shots_imported,
    compared.shots_ours,
    compared.task_version as task_version_imported,
    compared.task_version_ours, variant_summary.kl_teacher_forced_median_nats, compared.harness, compared.source_file
from compared
left join variant_summary using (model, recipe)
