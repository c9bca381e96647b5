-- After how many dropped sublayers or blocks does a task's score halve?
-- grain: one row per model × kind of drop × way of choosing × task × metric.
-- key: model, method, chosen_by, task, metric
-- inputs: stg_task_scores, stg_variants
-- how to read: critical_k is where the score first falls to half the dense one, on straight lines between neighbouring
--   numbers of drops from the dense model (k = 0) on; variants of equal k are averaged. Its interval is where half the
--   dense score lies within the 95 % band of the scores, standard errors of variant and dense added as independent
--   ones. NULL beyond k_largest, for nothing is extrapolated: with critical_k_low and no critical_k the score may have
--   halved already, with critical_k and no critical_k_high it may not have. Bounds are NULL where a score has no
--   standard error. A task whose score by chance is above half the dense one never halves. Only metrics of which more
--   is better, and a dense score above 0.
-- reason: the number that the paper's Figure 1 shows as a cliff, one a task: generation falls off it first.
-- columns:
--   method: Kind of drop, such as attn-drop [label]
--   chosen_by: What chose the units, such as influence [label]
--   metric: Name of the score within its task
--   score_dense: The dense model's score [share]
--   n_points: Different numbers of drops that were scored, the dense model not counted
--   k_largest: Largest number of drops that was scored [units]
--   score_at_largest: Score there [share]
--   critical_k: Where the score is half the dense one, interpolated; NULL where it never is [units]
--   critical_k_low: Lower end of its 95 % interval [units]
--   critical_k_high: Upper end of its 95 % interval [units]
with

dense as (
    select
        model,
        task,
        metric,
        kind,
        value,
        standard_error
    from stg_task_scores
    where recipe = 'dense' and is_higher_better and value > 0
),

drops as (
    select
        variants.model,
        variants.method,
        coalesce(json_extract_string(try_cast(variants.parameters_json as json), '$.by'), 'unknown') as chosen_by,
        cast(json_extract_string(try_cast(variants.parameters_json as json), '$.count') as integer) as k,
        dense.task,
        dense.metric,
        dense.kind,
        avg(scores.value) as score,
        -- Averages of independent scores; without one of their errors the average has none.
        case
            when count(scores.standard_error) = count(*) then sqrt(sum(scores.standard_error ** 2)) / count(*)
        end as score_se,
        any_value(dense.value) as score_dense,
        any_value(dense.standard_error) as score_dense_se
    from stg_variants as variants
    inner join stg_task_scores as scores
        on variants.model = scores.model and variants.recipe = scores.recipe
    inner join dense
        on scores.model = dense.model and scores.task = dense.task and scores.metric = dense.metric
    where
        variants.method in ('attn-drop', 'mlp-drop', 'attn+mlp-drop', 'block-drop')
        and json_extract(try_cast(variants.parameters_json as json), '$.count') is not null
    group by variants.model, variants.method, chosen_by, k, dense.task, dense.metric, dense.kind
),

points as (
    select
        model,
        method,
        chosen_by,
        task,
        metric,
        k,
        score - score_dense / 2 as excess,
        sqrt(score_se ** 2 + score_dense_se ** 2 / 4) as excess_se
    from drops

    union all

    -- Half the dense score stands above half of itself with half its error.
    select distinct
        model,
        method,
        chosen_by,
        task,
        metric,
        0 as k,
        score_dense / 2 as excess,
        score_dense_se / 2 as excess_se
    from drops
),

curves as (
    select
        model,
        method,
        chosen_by,
        task,
        metric,
        k,
        unnest(['low', 'middle', 'high']) as curve,
        unnest([
            excess - 1.959963984540054 * excess_se, excess, excess + 1.959963984540054 * excess_se
        ]) as height
    from points
),

segments as (
    select
        *,
        lag(k) over (partition by model, method, chosen_by, task, metric, curve order by k) as k_before,
        lag(height) over (partition by model, method, chosen_by, task, metric, curve order by k) as height_before,
        -- A curve with an unknown point says nothing.
        count(height) over (partition by model, method, chosen_by, task, metric, curve)
        = count(*) over (partition by model, method, chosen_by, task, metric, curve) as is_whole
    from curves
),

crossings as (
    select
        model,
        method,
        chosen_by,
        task,
        metric,
        curve,
        min(
            case
                when k_before is null then cast(k as double)
                else k_before + (k - k_before) * height_before / (height_before - height)
            end
        ) as k
    from segments
    where is_whole and height <= 0 and (k_before is null or height_before > 0)
    group by model, method, chosen_by, task, metric, curve
),

summaries as (
    select
        model,
        method,
        chosen_by,
        task,
        metric,
        any_value(kind) as kind,
        any_value(score_dense) as score_dense,
        count(*) as n_points,
        max(k) as k_largest,
        arg_max(score, k) as score_at_largest
    from drops
    group by model, method, chosen_by, task, metric
),

found as (
    select
        model,
        method,
        chosen_by,
        task,
        metric,
        max(k) filter (where curve = 'middle') as critical_k,
        max(k) filter (where curve = 'low') as critical_k_low,
        max(k) filter (where curve = 'high') as critical_k_high
    from crossings
    group by model, method, chosen_by, task, metric
)

select
    summaries.model,
    summaries.method,
    summaries.chosen_by,
    summaries.task,
    summaries.metric,
    summaries.kind,
    summaries.score_dense,
    summaries.n_points,
    summaries.k_largest,
    summaries.score_at_largest,
    found.critical_k,
    found.critical_k_low,
    found.critical_k_high
from summaries
left join found
    on
        summaries.model = found.model
        and summaries.method = found.method
        and summaries.chosen_by = found.chosen_by
        and summaries.task = found.task
        and summaries.metric = found.metric
order by summaries.model, summaries.task, summaries.metric, summaries.method, summaries.chosen_by
