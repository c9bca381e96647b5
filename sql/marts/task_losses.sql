-- What each variant lost of what the dense model can do beyond a guess, by choosing among options and by writing.
-- grain: one row per pruned variant × measure × kind of task.
-- key: model, recipe, measure, kind
-- inputs: stg_task_scores, stg_task_samples, noise_variants
-- how to read: a task's loss is the part of what its dense score has above a guess that is gone; a guess at options is
--   the mean of 1/options, at a text or a single option 0. Tasks whose dense score is not two standard errors above a
--   guess have nothing to lose and are left out; where the options are unevenly right, as in BoolQ, even that is no
--   proof of knowledge.
--   The metrics of a task are averaged first, then the tasks. measure score takes every metric but agreement, measure
--   agreement that one alone, which takes the dense model's own answers for the right ones. Below 0 the score rose.
-- reason: losses of strong and weak models, of two and of four options, become comparable.
-- columns:
--   measure: score, by right answers, or agreement, by the dense model's own ones
--   n_tasks: Tasks that count [tasks]
--   loss: Mean over tasks of what is gone [share]
--   loss_se: Its standard error over samples; NULL where a score has none [share]
with

guesses as (
    select
        model,
        task,
        -- At a single option, as LAMBADA's, nothing can be guessed.
        avg(case when len(option_log_likelihoods) > 1 then 1.0 / len(option_log_likelihoods) else 0.0 end) as guess
    from stg_task_samples
    where recipe = 'dense' and scoring in ('full_text', 'letter')
    group by model, task
),

dense_scores as (
    select
        scores.model,
        scores.task,
        scores.metric,
        scores.kind,
        case when scores.metric = 'agreement' then 'agreement' else 'score' end as measure,
        scores.value,
        scores.standard_error,
        case when scores.kind = 'generative' then 0.0 else guesses.guess end as guess
    from stg_task_scores as scores
    left join guesses
        on scores.model = guesses.model and scores.task = guesses.task
    where
        scores.recipe = 'dense'
        and scores.is_higher_better
        and scores.kind in ('generative', 'non_generative')
),

metric_losses as (
    select
        pruned.model,
        pruned.recipe,
        dense.measure,
        dense.kind,
        dense.task,
        (dense.value - pruned.value) / (dense.value - dense.guess) as loss,
        -- First order in both errors.
        sqrt(
            pruned.standard_error ** 2
            + ((pruned.value - dense.guess) / (dense.value - dense.guess) * dense.standard_error) ** 2
        ) / (dense.value - dense.guess) as loss_se
    from stg_task_scores as pruned
    inner join dense_scores as dense
        on pruned.model = dense.model and pruned.task = dense.task and pruned.metric = dense.metric
    anti join noise_variants
        on pruned.model = noise_variants.model and pruned.recipe = noise_variants.recipe
    where pruned.recipe <> 'dense' and dense.value - dense.guess > 2 * coalesce(dense.standard_error, 0)
),

each_task as (
    select
        model,
        recipe,
        measure,
        kind,
        task,
        avg(loss) as loss,
        -- Metrics of one task are of the same samples.
        avg(loss_se) as loss_se
    from metric_losses
    group by model, recipe, measure, kind, task
)

select
    model,
    recipe,
    measure,
    kind,
    count(*) as n_tasks,
    avg(loss) as loss,
    sqrt(sum(loss_se ** 2)) / count(*) as loss_se
from each_task
group by model, recipe, measure, kind
