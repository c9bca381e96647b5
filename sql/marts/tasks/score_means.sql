-- The mean score of each variant in tasks, by kind of task.
-- grain: one row per model × recipe × measure, dense included, noise left out.
-- key: model, recipe, measure
-- inputs: task_group_scores, noise_variants
-- how to read: means over tasks; the score of a task is the mean of those of its metrics that are shares and better
--   when higher. The errors take tasks as independent and metrics of one task as fully correlated. measure
--   non_generative are tasks answered by likelihood, generative those answered by writing. Agreement with the dense
--   model's answers does not say whether an answer is right, so it is a separate measure, over tasks answered by
--   writing. score_se is NULL if a task has no error. If all of its answers are right, or none is, a standard error of
--   0 would be too small: its error is then the width of Wilson's interval over 1.96.
-- reason: right answers and unchanged answers are kept apart.
-- columns:
--   measure: non_generative, generative or agreement [label]
--   score: Mean over tasks [share]
--   score_se: Its standard error over samples [share]
--   score_low: Lower end of its 95 % interval, Wilson's with as many answers as have that error [share]
--   n_tasks: Tasks, a group of the harness as one [tasks]
with scores as (
    select
        *,
        case
            -- The dense model always agrees with itself.
            when score_se = 0 and score in (0, 1) and not (recipe = 'dense' and metric = 'agreement')
                then (wilson_interval(score * n, n)[2] - wilson_interval(score * n, n)[1]) / 1.959963984540054
            else score_se
        end as error_at_edge
    from task_group_scores
),

tasks as (
    select
        scores.model, scores.recipe, scores.task_group,
        case when scores.metric = 'agreement' then 'agreement' else scores.kind end as measure,
        avg(scores.score) as score,
        case when count(scores.error_at_edge) = count(*) then avg(scores.error_at_edge) end as error,
        min(scores.n) as n
    from scores
    anti join noise_variants using (model, recipe)
    where
        (scores.kind = 'generative' or (scores.kind = 'non_generative' and scores.metric <> 'agreement'))
        and scores.is_higher_better
        -- Metrics under the harness's own name need not be shares; this one is.
        and (not starts_with(scores.metric, 'lm_eval/') or scores.metric = 'lm_eval/acc')
    group by all
),

means as (
    select
        model, recipe, measure,
        avg(score) as score,
        case when count(error) = count(*) then sqrt(sum(error ** 2)) / count(*) end as score_se,
        -- Effective number of answers if all tasks weigh the same; used if all answers are right or none is.
        count(*) ** 2 / sum(1.0 / n) as answers,
        count(*) as n_tasks
    from tasks
    group by all
)

select
    model, recipe, measure, score, score_se,
    wilson_interval_of_error(score, score_se, answers)[1] as score_low,
    wilson_interval_of_error(score, score_se, answers)[2] as score_high,
    n_tasks
from means
