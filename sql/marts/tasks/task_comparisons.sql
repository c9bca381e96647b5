-- What a variant gains and loses against the dense model on the same samples, with exact and corrected tests.
-- grain: one row per pruned variant × task × metric.
-- key: model, recipe, task, metric
-- inputs: task_pairs, provenance
-- how to read: all figures are over pairs of answers to the same request. lost are right answers that became wrong,
--   gained the reverse. mcnemar_p is McNemar's exact two-sided p-value of lost against gained, 1 if no answer changed.
--   holm_p corrects it for testing several variants of the model on this task and metric. These are the variants whose
--   samples the same study stored, so a later study does not change what an earlier one found significant; a variant of
--   two studies belongs to the one that computed it. If you read several studies as one search, correct again.
--   Intervals are paired by sample and not corrected. That of the accuracy is Newcombe's for pairs, and includes 0
--   whenever mcnemar_p is 0.05 or more. Those of the log-likelihood and the margin are Student's t (NULL below two
--   samples and if none deviates). log_likelihood_change is of the right option, or per byte of a text. For a text it
--   is the logarithm of dense over pruned byte_perplexity up to one factor that is the same for all variants, because
--   task_scores counts the bytes before detokenization. margin_change is the change of the right option's margin over
--   the best other one, which moves long before an answer flips. The dense recipe and noise variants are excluded.
-- reason: two models of equal accuracy may answer different questions right, which only pairs show; a dozen recipes
--   tested at once show a difference by chance. The view is long because test, correction and intervals need the same
--   pairs.
-- columns:
--   study: Study that stored the samples of the variant, whose recipes are tested together [label]
--   n_samples: Samples that both answered [samples]
--   n_graded: Those that are graded on both sides [samples]
--   accuracy_dense: Share of the graded that the dense model answers right [share]
--   accuracy_pruned: Share of the graded that the variant answers right [share]
--   accuracy_change: Paired change of the accuracy [share] = accuracy_pruned − accuracy_dense
--   accuracy_change_low: Lower end of its 95 % interval, paired, in agreement with mcnemar_p [share]
--   lost: Right answers that became wrong [samples]
--   gained: Wrong answers that became right [samples]
--   mcnemar_p: Exact two-sided McNemar test of lost against gained; NULL if nothing is graded [probability]
--   n_tests: Variants of the model that the study tests on this task and metric [variants]
--   holm_p: mcnemar_p corrected by Holm for n_tests; NULL if nothing is graded [probability]
--   log_likelihood_change: Mean change of the target's log-likelihood; NULL if it has none [nats or nats per byte]
--   log_likelihood_change_low: Lower end of its 95 % interval, paired, Student's t over samples [nats or nats per byte]
--   margin_change: Mean change of the target's margin over the best other option; NULL if it has none [nats or nats per
--     byte]
--   margin_change_low: Lower end of its 95 % interval, paired, Student's t over samples [nats or nats per byte]
with counted as (
    select
        model, recipe, task, metric,
        count(*) as n_samples,
        count(is_lost) as n_graded,
        count(*) filter (where is_correct_dense) as dense_correct,
        count(*) filter (where is_correct_pruned) as pruned_correct,
        count(*) filter (where is_lost) as lost,
        count(*) filter (where is_gained) as gained,
        sum(log_likelihood_change) / sum(case when log_likelihood_change is not null then weight end)
            as log_likelihood_change,
        avg(margin_change) as margin_change,
        half_width_of_mean(log_likelihood_change, case when log_likelihood_change is not null then weight end)
            as log_likelihood_half_width,
        half_width_of_mean(margin_change, case when margin_change is not null then 1.0 end) as margin_half_width
    from task_pairs
    group by all
),

tested as (
    select
        counted.*,
        studies.study,
        case when counted.n_graded > 0 then coalesce(mcnemar_exact(counted.lost, counted.gained), 1.0) end as mcnemar_p
    from counted
    left join provenance as studies
        on counted.model = studies.model and counted.recipe = studies.recipe and studies.table_name = 'task_samples'
),

ordered as (
    select
        *,
        count(mcnemar_p) over (partition by model, study, task, metric) as n_tests,
        row_number() over (
            partition by model, study, task, metric order by mcnemar_p asc nulls last, recipe asc
        ) as place
    from tested
),

corrected as (
    select
        *,
        case
            when mcnemar_p is not null
                then
                    max(holm_step(mcnemar_p, place, n_tests)) over (
                        partition by model, study, task, metric order by place
                    )
        end as holm_p
    from ordered
)

select
    corrected.model, corrected.recipe, corrected.task, corrected.metric, corrected.study, corrected.n_samples,
    corrected.n_graded,
    corrected.dense_correct / nullif(corrected.n_graded, 0) as accuracy_dense,
    corrected.pruned_correct / nullif(corrected.n_graded, 0) as accuracy_pruned,
    (corrected.pruned_correct - corrected.dense_correct) / nullif(corrected.n_graded, 0) as accuracy_change,
    interval_of_paired_change(corrected.lost, corrected.gained, corrected.n_graded)[1] as accuracy_change_low,
    interval_of_paired_change(corrected.lost, corrected.gained, corrected.n_graded)[2] as accuracy_change_high,
    corrected.lost, corrected.gained, corrected.mcnemar_p, corrected.n_tests, corrected.holm_p,
    corrected.log_likelihood_change,
    corrected.log_likelihood_change - corrected.log_likelihood_half_width as log_likelihood_change_low,
    corrected.log_likelihood_change + corrected.log_likelihood_half_width as log_likelihood_change_high,
    corrected.margin_change,
    corrected.margin_change - corrected.margin_half_width as margin_change_low,
    corrected.margin_change + corrected.margin_half_width as margin_change_high
from corrected
order by corrected.model, corrected.task, corrected.metric, corrected.recipe
