-- The score of each variant and of the dense model in each task, with both intervals and their covariance.
-- grain: one row per pruned or noise variant × task group × kind × metric.
-- key: model, recipe, task_group, kind, metric
-- inputs: task_group_scores, graded_answers, stg_task_scores, stg_task_samples, noise_variants
-- how to read: intervals are Wilson's over the samples. The covariance is that of right answers to the same samples,
--   from the 2 × 2 table of both models' answers. It is 0 if answers are not stored; both then count as independent,
--   which makes intervals of differences rather too wide. Under agreement the dense score is 1 without an error.
--   Perplexities are excluded, and intervals are NULL if a score is not a share. A guess does not read the question:
--   always answering yes is right on 70 of the first 100 questions of BoolQ.
-- reason: losses and gaps compare paired scores, and need both errors and their covariance.
-- columns:
--   metric: Name of the score within its task
--   measure: agreement for the metric of that name, else score [label]
--   is_noise: Whether the variant is the dense model computed in another way
--   score: The variant's score [share]
--   score_low: Lower end of its 95 % interval, Wilson over samples [share]
--   score_dense: The dense model's score [share]
--   score_dense_low: Lower end of its 95 % interval, Wilson over samples [share]
--   guess: Score of a guess; 0 for a written text or a single option; NULL if not known [share] = the mean of
--     1/options; for a score at least that of the best constant answer, if options are letters or always the same
--   n_answers: Samples behind both scores; if answers are stored, those graded on both sides [samples]
--   answers_covariance: Covariance of both models being right on a sample; 0 if answers are not stored [share²]
--   answers_variance: Variance of the variant being right on a sample [share²]
--   answers_dense_variance: Variance of the dense model being right on a sample [share²]
with groups as (
    select distinct model, task, task_group
    from stg_task_scores
    where recipe = 'dense'
),

task_guesses as (
    select
        samples.model, groups.task_group, samples.task, samples.scoring,
        count(*) as n,
        -- A single option, as in LAMBADA, cannot be guessed.
        avg(
            case
                when len(samples.option_log_likelihoods) > 1 then 1.0 / len(samples.option_log_likelihoods)
                else 0.0
            end
        ) as by_chance,
        -- If options are letters, or the same in every question, one constant answer needs no reading.
        case
            when
                max(len(samples.option_log_likelihoods)) > 1
                and count(*) > 1
                and (bool_or(samples.scoring = 'letter') or count(distinct samples.options) = 1)
                then list_max(map_values(histogram(samples.target_index))) / count(*)
        end as by_constant
    from stg_task_samples as samples
    inner join groups using (model, task)
    where samples.recipe = 'dense' and samples.scoring in ('full_text', 'letter')
    group by all
),

guesses as (
    select
        model, task_group,
        sum(n * by_chance) / sum(n) as by_chance,
        sum(n * greatest(by_chance, by_constant)) / sum(n) as guess
    from task_guesses
    group by all
),

scores as (
    select
        model, recipe, task_group, kind, metric, score, n,
        case
            when score between 0 and 1 and recipe = 'dense' and metric = 'agreement' then [1.0, 1.0]
            -- Scores are stored as quotients; rounding restores the whole number of right answers.
            when score between 0 and 1 then wilson_interval(round(score * n, 6), n)
        end as ends
    from task_group_scores
    where is_higher_better and kind in ('generative', 'non_generative')
),

answers as (
    select
        other.model, other.recipe, groups.task_group, other.metric,
        count(*) as n,
        count(*) filter (where dense.is_right) as dense_right,
        count(*) filter (where other.is_right) as other_right,
        count(*) filter (where dense.is_right and other.is_right) as both_right
    from graded_answers as other
    inner join graded_answers as dense using (model, task, metric, scoring, sample_id, sample_hash)
    inner join groups using (model, task)
    where other.recipe <> 'dense' and dense.recipe = 'dense'
    group by all
)

select
    other.model, other.recipe, other.task_group, other.kind, other.metric,
    case when other.metric = 'agreement' then 'agreement' else 'score' end as measure,
    noise_variants.recipe is not null as is_noise,
    other.score,
    other.ends[1] as score_low,
    other.ends[2] as score_high,
    dense.score as score_dense,
    dense.ends[1] as score_dense_low,
    dense.ends[2] as score_dense_high,
    case
        when other.kind = 'generative' then 0.0
        when other.metric = 'agreement' then guesses.by_chance
        else guesses.guess
    end as guess,
    coalesce(answers.n, least(other.n, dense.n)) as n_answers,
    case
        -- The dense model always agrees with itself.
        when other.metric = 'agreement' then 0.0
        else
            coalesce(
                covariance_of_outcomes(answers.n, answers.dense_right, answers.other_right, answers.both_right), 0
            )
    end as answers_covariance,
    variance_of_outcomes(coalesce(answers.n, other.n), coalesce(answers.other_right, other.score * other.n))
        as answers_variance,
    case
        when other.metric = 'agreement' then 0.0
        else variance_of_outcomes(coalesce(answers.n, dense.n), coalesce(answers.dense_right, dense.score * dense.n))
    end as answers_dense_variance
from scores as other
left join guesses using (model, task_group)
left join answers using (model, recipe, task_group, metric)
left join noise_variants using (model, recipe)
inner join scores as dense using (model, task_group, kind, metric)
where other.recipe <> 'dense' and dense.recipe = 'dense'
