-- The number of dropped sublayers or blocks at which a score falls to half the dense one.
-- grain: one row per model × kind of drop × way of choosing × task group × kind of task × metric.
-- key: model, method, chosen_by, task_group, kind, metric
-- inputs: drop_scores
-- how to read: q21 says how critical_k and its interval are computed.
-- reason: tasks and probes are compared by one number, computed in the same way. The view is long because the interval
--   needs two more curves.
-- columns:
--   chosen_by: Criterion that chose the units, such as influence [label]
--   n_points: Different numbers of drops that were scored, the dense model not counted
--   k_largest: Largest number of drops that was scored [units]
--   score_at_largest: Score there [share]
--   critical_k: Number of drops at which the score is half the dense one, interpolated; NULL if it never is [units]
--   critical_k_low: Lower end of its 95 % interval, at which the lower end of the score is half [units]
--   critical_k_high: Upper end of its 95 % interval, at which the upper end of the score is half [units]
with

-- A CTE that is read twice is computed once.
scores as (
    select * from drop_scores
),

points as (
    select
        model, method, chosen_by, task_group, kind, metric, k,
        score - score_dense / 2 as excess,
        interval_of_difference(
            score, score_low, score_high, score_dense / 2, score_dense_low / 2, score_dense_high / 2, 0
        ) as ends
    from scores

    union all

    -- The dense model is the point at 0 drops: half its score above the threshold, with half its error.
    select distinct
        model, method, chosen_by, task_group, kind, metric,
        0 as k,
        score_dense / 2 as excess,
        [score_dense_low / 2, score_dense_high / 2] as ends
    from scores
),

curves as (
    select
        *,
        unnest(['low', 'middle', 'high']) as curve,
        unnest([ends[1], excess, ends[2]]) as height
    from points
),

segments as (
    select
        *,
        lag(k) over along as k_before,
        lag(height) over along as height_before,
        -- A curve with an unknown point is not used.
        count(height) over whole = count(*) over whole as is_whole
    from curves
    window
        whole as (partition by model, method, chosen_by, task_group, kind, metric, curve),
        along as (partition by model, method, chosen_by, task_group, kind, metric, curve order by k)
),

crossings as (
    select
        *,
        case
            when k_before is null then cast(k as double)
            else k_before + (k - k_before) * height_before / (height_before - height)
        end as crossing
    from segments
    where is_whole and height <= 0 and (k_before is null or height_before > 0)
),

first_crossings as (
    select
        model, method, chosen_by, task_group, kind, metric,
        min(crossing) filter (where curve = 'middle') as critical_k,
        min(crossing) filter (where curve = 'low') as critical_k_low,
        min(crossing) filter (where curve = 'high') as critical_k_high
    from crossings
    group by all
),

summaries as (
    select
        model, method, chosen_by, task_group, kind, metric,
        any_value(score_dense) as score_dense,
        count(*) as n_points,
        max(k) as k_largest,
        arg_max(score, k) as score_at_largest
    from scores
    group by all
)

select
    summaries.model, summaries.method, summaries.chosen_by, summaries.task_group, summaries.kind, summaries.metric,
    summaries.score_dense, summaries.n_points, summaries.k_largest, summaries.score_at_largest,
    first_crossings.critical_k, first_crossings.critical_k_low, first_crossings.critical_k_high
from summaries
left join first_crossings using (model, method, chosen_by, task_group, kind, metric)
