-- How good each variant is in tasks, by kind of task: what a curve of scores, or a point beside what is gone, shows.
-- grain: one row per model × recipe × measure, dense included, noise left out.
-- key: model, recipe, measure
-- inputs: scores_without_noise
-- how to read: means over tasks, each task's the mean of those of its metrics that are shares and better when higher;
--   their errors take tasks as independent and metrics of one task as moving together. measure non_generative are tasks
--   answered by likelihood, generative those answered by writing; neither counts agreement with the dense model's own
--   answers, which says nothing of right and wrong and is a measure of its own, over tasks answered by writing.
--   score_se is NULL where a task has no error.
-- reason: right answers and answers that stayed the same were mixed once; here one view keeps them apart for all.
-- columns:
--   measure: non_generative, generative or agreement [label]
--   score: Mean over tasks [share]
--   score_se: Its standard error over samples [share]
--   n_tasks: Tasks, a group of the harness as one [tasks]
with

tasks as (
    select
        scores.model,
        scores.recipe,
        scores.task_group,
        case when scores.metric = 'agreement' then 'agreement' else scores.kind end as measure,
        avg(scores.score) as score,
        case when count(scores.score_se) = count(*) then avg(scores.score_se) end as error
    from scores_without_noise as scores
    where
        (scores.kind = 'generative' or (scores.kind = 'non_generative' and scores.metric <> 'agreement'))
        and scores.is_higher_better
        -- What keeps the harness's own name need not be a share; these are.
        and (not starts_with(scores.metric, 'lm_eval/') or scores.metric in ('lm_eval/acc', 'lm_eval/acc_norm'))
    group by all
)

select
    model,
    recipe,
    measure,
    avg(score) as score,
    case when count(error) = count(*) then sqrt(sum(error ** 2)) / count(*) end as score_se,
    count(*) as n_tasks
from tasks
group by model, recipe, measure
