-- Scores by task, or by group of tasks, such as MMLU's 57 tasks as one.
-- grain: one row per variant × task group × kind × metric.
-- key: model, recipe, task_group, kind, metric
-- inputs: stg_task_scores
-- how to read: a task without a group is its own group, and its numbers are those of task_scores. In a group every
--   sample counts alike, as the harness does for MMLU: tasks are weighted by the number that they were averaged over
--   (n), perplexities are averaged by their logarithms, and errors take tasks as independent. A metric is averaged over
--   the tasks that have it.
-- reason: a group of 57 tasks must not weigh 57 times as much as one task, and is published as one number.
-- columns:
--   n_tasks: Tasks of the group that have the metric [tasks]
--   score: Mean over the group's samples [share; units of text for perplexity]
--   score_se: Its standard error; NULL if a task has none [unit of score]
--   n: Number of samples, or of the units of a perplexity [samples]
--   shots: Worked examples in front of every question; NULL if the tasks differ [examples]
with weighted as (
    select
        *,
        ends_with(metric, 'perplexity') as is_perplexity,
        n / sum(n) over (partition by model, recipe, task_group, kind, metric) as weight
    from stg_task_scores
),

averaged as (
    select
        model, recipe, task_group, kind, metric, is_perplexity,
        case
            when is_perplexity then product(case when is_perplexity then value ** weight end)
            else sum(weight * value)
        end as score,
        case
            when count(standard_error) = count(*)
                -- The error of a perplexity is relative, as that of its logarithm.
                then sqrt(sum((weight * standard_error / case when is_perplexity then value else 1 end) ** 2))
        end as error,
        sum(n) as n,
        bool_and(is_higher_better) as is_higher_better,
        case when min(shots) = max(shots) then min(shots) end as shots,
        count(*) as n_tasks
    from weighted
    group by model, recipe, task_group, kind, metric, is_perplexity
)

select
    model, recipe, task_group, kind, metric, n_tasks, score,
    error * case when is_perplexity then score else 1 end as score_se,
    cast(n as bigint) as n,
    is_higher_better, shots
from averaged
