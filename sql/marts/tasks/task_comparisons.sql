-- What a variant gains and loses against the dense model on the same samples, with exact and corrected tests.
-- grain: one row per pruned variant × task × metric.
-- key: model, recipe, task, metric
-- inputs: task_pairs, provenance
-- how to read: all figures are of pairs of answers to the same request. lost are right answers that became wrong,
--   gained the reverse. mcnemar_p is McNemar's exact two-sided p-value of lost against gained, 1 where no
--   answer changed. holm_p corrects it for testing several variants of the model on this task and
--   metric, namely those whose samples the same study stored: a later study does not change what an earlier one found
--   significant, and a variant of two studies belongs to the one that computed it. Correct holm_p again where you read
--   several studies as one search. Intervals resample samples (400 fixed resamples; NULL below 5 samples and where none
--   deviates). log_likelihood_change is of the right option, or per byte of a text: the logarithm of dense over pruned
--   byte_perplexity up to one factor that is the same for all variants, because task_scores counts the bytes before
--   detokenization. margin_change is the change of the right option's margin over the best other one, which moves long
--   before an answer flips. The dense recipe and noise variants are excluded.
-- reason: two accuracies with an error each hide that two models answer different questions right, which pairs show; a
--   dozen recipes tested at once find a difference by chance. The view is long because test, correction and resampling
--   need the same pairs.
-- columns:
--   study: Study that stored the samples of the variant, whose recipes are tested together [label]
--   n_samples: Samples that both were asked [samples]
--   n_graded: Of these, those where right and wrong are known of both [samples]
--   accuracy_dense: Share of the graded that the dense model answers right [share]
--   accuracy_pruned: Share of the graded that the variant answers right [share]
--   accuracy_change: Paired change of the accuracy [share] = accuracy_pruned − accuracy_dense
--   accuracy_change_low: Lower end of its 95 % interval [share]
--   accuracy_change_high: Upper end of its 95 % interval [share]
--   lost: Right answers that became wrong [samples]
--   gained: Wrong answers that became right [samples]
--   mcnemar_p: Exact two-sided McNemar test of lost against gained; NULL where nothing is graded [probability]
--   n_tests: Variants of the model that the study tests on this task and metric [variants]
--   holm_p: mcnemar_p corrected by Holm for n_tests; NULL where nothing is graded [probability]
--   log_likelihood_change: Mean change of the target's log-likelihood; NULL where it has none [nats or nats per byte]
--   log_likelihood_change_low: Lower end of its 95 % interval [nats or nats per byte]
--   log_likelihood_change_high: Upper end of its 95 % interval [nats or nats per byte]
--   margin_change: Mean change of the target's margin over the best other option; NULL where it has none [nats or nats
--     per byte]
--   margin_change_low: Lower end of its 95 % interval [nats or nats per byte]
--   margin_change_high: Upper end of its 95 % interval [nats or nats per byte]
with

-- Parallel lists with one entry per sample, for the resamples.
counted as (
    select
        model,
        recipe,
        task,
        metric,
        count(*) as n_samples,
        count(is_lost) as n_graded,
        count(*) filter (where is_correct_dense) as dense_correct,
        count(*) filter (where is_correct_pruned) as pruned_correct,
        count(*) filter (where is_lost) as lost,
        count(*) filter (where is_gained) as gained,
        sum(log_likelihood_change) / sum(case when log_likelihood_change is not null then weight end)
            as log_likelihood_change,
        avg(margin_change) as margin_change,
        count(log_likelihood_change) as n_log_likelihoods,
        count(margin_change) as n_margins,
        list(coalesce(cast(is_gained as integer) - cast(is_lost as integer), 0.0) order by sample_id) as turns,
        list(case when is_lost is null then 0.0 else 1.0 end order by sample_id) as are_graded,
        list(coalesce(log_likelihood_change, 0.0) order by sample_id) as log_likelihood_changes,
        list(case when log_likelihood_change is null then 0.0 else weight end order by sample_id) as weights,
        list(coalesce(margin_change, 0.0) order by sample_id) as margin_changes,
        list(case when margin_change is null then 0.0 else 1.0 end order by sample_id) as have_margins
    from task_pairs
    group by model, recipe, task, metric
),

sizes as (
    select distinct n_samples
    from counted
    where n_samples >= 5
),

resamples as (
    select
        n_samples,
        unnest(bootstrap_weights(n_samples)) as draws
    from sizes
),

intervals as (
    select
        counted.model,
        counted.recipe,
        counted.task,
        counted.metric,
        bootstrap_interval(
            resampled_share(resamples.draws, counted.turns, counted.are_graded), any_value(counted.n_graded)
        ) as accuracy,
        bootstrap_interval(
            resampled_share(resamples.draws, counted.log_likelihood_changes, counted.weights),
            any_value(counted.n_log_likelihoods)
        ) as log_likelihood,
        bootstrap_interval(
            resampled_share(resamples.draws, counted.margin_changes, counted.have_margins), any_value(counted.n_margins)
        ) as margin
    from counted
    inner join resamples
        on counted.n_samples = resamples.n_samples
    group by counted.model, counted.recipe, counted.task, counted.metric
),

studies as (
    select
        model,
        recipe,
        study
    from provenance
    where table_name = 'task_samples'
),

tested as (
    select
        counted.*,
        studies.study,
        case when counted.n_graded > 0 then coalesce(mcnemar_exact(counted.lost, counted.gained), 1.0) end as mcnemar_p
    from counted
    left join studies
        on counted.model = studies.model and counted.recipe = studies.recipe
),

placed as (
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
    from placed
)

select
    corrected.model,
    corrected.recipe,
    corrected.task,
    corrected.metric,
    corrected.study,
    corrected.n_samples,
    corrected.n_graded,
    corrected.dense_correct / nullif(corrected.n_graded, 0) as accuracy_dense,
    corrected.pruned_correct / nullif(corrected.n_graded, 0) as accuracy_pruned,
    (corrected.pruned_correct - corrected.dense_correct) / nullif(corrected.n_graded, 0) as accuracy_change,
    intervals.accuracy[1] as accuracy_change_low,
    intervals.accuracy[2] as accuracy_change_high,
    corrected.lost,
    corrected.gained,
    corrected.mcnemar_p,
    corrected.n_tests,
    corrected.holm_p,
    corrected.log_likelihood_change,
    intervals.log_likelihood[1] as log_likelihood_change_low,
    intervals.log_likelihood[2] as log_likelihood_change_high,
    corrected.margin_change,
    intervals.margin[1] as margin_change_low,
    intervals.margin[2] as margin_change_high
from corrected
left join intervals
    on
        corrected.model = intervals.model
        and corrected.recipe = intervals.recipe
        and corrected.task = intervals.task
        and corrected.metric = intervals.metric
order by corrected.model, corrected.task, corrected.metric, corrected.recipe
