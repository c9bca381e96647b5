-- Scores of tasks and probes against the number of dropped sublayers or blocks.
-- grain: one row per model × kind of drop × way of choosing × task group × kind of task × metric × number of drops.
-- key: model, method, chosen_by, task_group, kind, metric, k
-- inputs: drop_variants, task_group_scores, drop_probe_scores
-- how to read: variants of equal k are averaged. So are the distances to the ends of their intervals, because they
--   answer the same questions; score_se takes them as independent. Intervals are Wilson's over samples; those of probes
--   are clustered by prompt. Only metrics that are better when higher and have a dense score above 0 are included.
--   Probes have the kind probe and the task_group probes; their dense score is 1.
-- reason: critical_drops reads off these curves where a score halves.
-- columns:
--   method: Kind of drop, such as attn-drop [label]
--   task_group: Name of the task, of the group that the task belongs to, or probes [label]
--   kind: How the task is answered, or probe if no task is asked [label]
--   metric: Name of the score within its task, or of the probe
--   score: Score with k units dropped [share]
--   score_se: Its standard error; NULL if a score has none [share]
--   score_low: Lower end of its 95 % interval; NULL if not known [share]
--   score_dense: The dense model's score [share]
--   score_dense_se: Its standard error; NULL if it has none [share]
--   score_dense_low: Lower end of its 95 % interval, Wilson's over samples [share]
with

-- A CTE that is read twice is computed once.
scores_of_tasks as (
    select
        *,
        case when score between 0 and 1 then wilson_interval(round(score * n, 6), n) end as ends
    from task_group_scores
),

dense as (
    select *
    from scores_of_tasks
    where recipe = 'dense' and is_higher_better and score > 0
),

measured as (
    select
        variants.model, variants.method, variants.chosen_by, variants.k, dense.task_group, dense.kind, dense.metric,
        scores.score, scores.score_se, scores.ends,
        dense.score as score_dense,
        dense.score_se as score_dense_se,
        dense.ends as dense_ends
    from drop_variants as variants
    inner join scores_of_tasks as scores using (model, recipe)
    -- Means over different tasks are not comparable.
    inner join dense using (model, task_group, kind, metric, n_tasks)

    union all

    select
        variants.model, variants.method, variants.chosen_by, variants.k,
        'probes' as task_group,
        'probe' as kind,
        probes.metric, probes.score, probes.score_se,
        case when probes.score_low is not null then [probes.score_low, probes.score_high] end as ends,
        1.0 as score_dense,
        0.0 as score_dense_se,
        [1.0, 1.0] as dense_ends
    from drop_variants as variants
    inner join drop_probe_scores as probes using (model, recipe)
)

select
    model, method, chosen_by, k, task_group, kind, metric,
    avg(score) as score,
    -- The average of independent scores has no error if one of them has none.
    case when count(score_se) = count(*) then sqrt(sum(score_se ** 2)) / count(*) end as score_se,
    case when count(ends) = count(*) then avg(ends[1]) end as score_low,
    case when count(ends) = count(*) then avg(ends[2]) end as score_high,
    any_value(score_dense) as score_dense,
    any_value(score_dense_se) as score_dense_se,
    any_value(dense_ends)[1] as score_dense_low,
    any_value(dense_ends)[2] as score_dense_high
from measured
group by all
