-- The part of the dense model's score above a guess that each variant loses, in choosing among options and in writing.
-- grain: one row per pruned variant × measure × kind of task.
-- key: model, recipe, measure, kind
-- inputs: scores_without_noise, task_group_scores, stg_task_scores, stg_task_samples
-- how to read: the loss of a task is the lost part of what its dense score has above a guess; a guess among options is
--   the mean of 1/options, for a written text or a single option 0. Tasks whose dense score is not two standard errors
--   above a guess have nothing to lose and are excluded; where the right options are unevenly distributed, as in BoolQ,
--   even that does not prove knowledge. A group of tasks, such as MMLU, is one task (task_group_scores). The metrics of
--   a task are averaged first, then the tasks. measure score uses every metric but agreement, measure agreement only
--   that one, which takes the dense model's own answers as the right ones. Below 0 the score rose; above 1 choosing is
--   worse than a guess. Where every sample gave the same result, the error is that of Agresti and Coull, as if two more
--   samples of either result had been seen, because a standard error of 0 would be too small.
-- reason: makes losses of strong and weak models, and of tasks with two and with four options, comparable.
-- columns:
--   measure: score, by right answers, or agreement, by the dense model's own ones
--   n_tasks: Tasks that count, a group as one [tasks]
--   loss: Mean over tasks of what is gone [share]
--   loss_se: Its standard error over samples; NULL where a score has none [share]
with

groups as (
    select distinct
        model,
        task,
        task_group
    from stg_task_scores
    where recipe = 'dense'
),

guesses as (
    select
        samples.model,
        groups.task_group,
        -- A single option, as in LAMBADA, cannot be guessed.
        avg(
            case
                when len(samples.option_log_likelihoods) > 1 then 1.0 / len(samples.option_log_likelihoods)
                else 0.0
            end
        ) as guess
    from stg_task_samples as samples
    inner join groups
        on samples.model = groups.model and samples.task = groups.task
    where samples.recipe = 'dense' and samples.scoring in ('full_text', 'letter')
    group by samples.model, groups.task_group
),

dense_scores as (
    select
        scores.model,
        scores.task_group,
        scores.metric,
        scores.kind,
        case when scores.metric = 'agreement' then 'agreement' else 'score' end as measure,
        scores.score,
        scores.score_se,
        case
            -- The dense model agrees with itself by construction.
            when scores.score_se = 0 and scores.metric <> 'agreement' then error_of_unanimous(scores.n)
            else scores.score_se
        end as error,
        case when scores.kind = 'generative' then 0.0 else guesses.guess end as guess
    from task_group_scores as scores
    left join guesses
        on scores.model = guesses.model and scores.task_group = guesses.task_group
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
        dense.task_group,
        (dense.score - pruned.score) / (dense.score - dense.guess) as loss,
        -- First order in both errors.
        sqrt(
            case pruned.score_se when 0 then error_of_unanimous(pruned.n) else pruned.score_se end ** 2
            + ((pruned.score - dense.guess) / (dense.score - dense.guess) * dense.error) ** 2
        ) / (dense.score - dense.guess) as loss_se
    from scores_without_noise as pruned
    inner join dense_scores as dense
        on
            pruned.model = dense.model
            and pruned.task_group = dense.task_group
            and pruned.kind = dense.kind
            and pruned.metric = dense.metric
    where pruned.recipe <> 'dense' and dense.score - dense.guess > 2 * coalesce(dense.score_se, 0)
),

each_task as (
    select
        model,
        recipe,
        measure,
        kind,
        task_group,
        avg(loss) as loss,
        -- Metrics of one task are of the same samples, so that their errors are averaged.
        avg(loss_se) as loss_se
    from metric_losses
    group by model, recipe, measure, kind, task_group
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
