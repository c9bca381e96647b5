-- After how many dropped sublayers or blocks does a task's score halve, and do cheap probes halve there too?
-- grain: one row per model × kind of drop × way of choosing × task group × kind of task × metric.
-- key: model, method, chosen_by, task_group, kind, metric
-- inputs: task_group_scores, stg_task_scores, stg_variants, task_pairs, decoding_at_reference, stg_generations
-- how to read: a group of the harness's tasks, such as MMLU, is one score (task_group_scores). critical_k is where the
--   score first falls to half the dense one, on straight lines between neighbouring numbers of drops from the dense
--   model (k = 0) on; variants of equal k are averaged. Its interval is where half the dense score lies within the 95 %
--   band of the scores, standard errors of variant and dense added as independent ones. NULL beyond k_largest, for
--   nothing is extrapolated: with critical_k_low and no critical_k the score may have halved already, with critical_k
--   and no critical_k_high it may not have. Bounds are NULL where a score has no standard error. A task whose score by
--   chance is above half the dense one never halves. Only metrics of which more is better, and a dense score above 0.
--   Rows of the kind probe (task_group probes) treat what needs no task in the same way, each 1 for the dense model:
--   top1_agreement, the teacher-forced steps with the same top token; kl_kept and kl_step0_kept, exp(−mean
--   KL(dense‖pruned)) over all steps and at the first; their errors are over prompts. critical_k_top1 and critical_k_kl
--   repeat two of them beside every task of the same drops.
-- reason: the number that the paper's Figure 1 shows as a cliff, one a task: generation falls off it first.
-- columns:
--   method: Kind of drop, such as attn-drop [label]
--   chosen_by: What chose the units, such as influence [label]
--   kind: How the task is answered, or probe where no task is asked [label]
--   metric: Name of the score within its task, or of the probe
--   score_dense: The dense model's score [share]
--   n_points: Different numbers of drops that were scored, the dense model not counted
--   k_largest: Largest number of drops that was scored [units]
--   score_at_largest: Score there [share]
--   critical_k: Where the score is half the dense one, interpolated; NULL where it never is [units]
--   critical_k_low: Lower end of its 95 % interval [units]
--   critical_k_high: Upper end of its 95 % interval [units]
--   critical_k_top1: Where top1_agreement halves, by the same drops [units]
--   critical_k_kl: Where exp(−mean KL) halves, that is where the mean KL is ln 2 nats, by the same drops [units]
--   first_flip_k: Mildest drop at which an answer to the task differs from the dense model's; NULL where none does or
--     no sample is known [units]
--   first_maths_flip_k: Mildest drop at which the answer to a maths prompt differs from the dense model's; NULL where
--     none does or there is no such prompt [units]
with

dense as (
    select
        model,
        task_group,
        kind,
        metric,
        score,
        score_se,
        n_tasks
    from task_group_scores
    where recipe = 'dense' and is_higher_better and score > 0
),

variants as (
    select
        model,
        recipe,
        method,
        coalesce(json_extract_string(try_cast(parameters_json as json), '$.by'), 'unknown') as chosen_by,
        cast(json_extract_string(try_cast(parameters_json as json), '$.count') as integer) as k
    from stg_variants
    where
        method in ('attn-drop', 'mlp-drop', 'attn+mlp-drop', 'block-drop')
        and json_extract(try_cast(parameters_json as json), '$.count') is not null
),

prompts as (
    select
        variants.model,
        variants.recipe,
        -- Lists that are unnested in one select run in step.
        unnest(['top1_agreement', 'kl_kept', 'kl_step0_kept']) as metric,
        unnest([
            sum(cast(cast(steps.is_top1_same as integer) as double)),
            sum(cast(steps.kl_dense_pruned_nats as double)),
            sum(cast(steps.kl_dense_pruned_nats as double)) filter (where steps.step = 0)
        ]) as total,
        unnest([count(*), count(*), count(*) filter (where steps.step = 0)]) as steps
    from variants
    inner join decoding_at_reference as steps
        on variants.model = steps.model and variants.recipe = steps.recipe
    where steps.trajectory = 'teacher_forced'
    group by variants.model, variants.recipe, steps.prompt_id
),

probe_means as (
    select
        model,
        recipe,
        metric,
        sum(steps) as steps,
        sum(total) / sum(steps) as per_step
    from prompts
    where steps > 0
    group by model, recipe, metric
),

probe_errors as (
    select
        means.model,
        means.recipe,
        means.metric,
        any_value(means.per_step) as per_step,
        error_over_clusters((prompts.total - prompts.steps * means.per_step) / means.steps) as per_step_se
    from probe_means as means
    inner join prompts
        on means.model = prompts.model and means.recipe = prompts.recipe and means.metric = prompts.metric
    where prompts.steps > 0
    group by means.model, means.recipe, means.metric
),

measured as (
    select
        variants.model,
        variants.method,
        variants.chosen_by,
        variants.k,
        dense.task_group,
        dense.kind,
        dense.metric,
        scores.score,
        scores.score_se,
        dense.score as score_dense,
        dense.score_se as score_dense_se
    from variants
    inner join task_group_scores as scores
        on variants.model = scores.model and variants.recipe = scores.recipe
    inner join dense
        on
            scores.model = dense.model
            and scores.task_group = dense.task_group
            and scores.kind = dense.kind
            and scores.metric = dense.metric
            -- Means over other tasks are no loss.
            and scores.n_tasks = dense.n_tasks

    union all

    select
        variants.model,
        variants.method,
        variants.chosen_by,
        variants.k,
        'probes' as group_of_none,
        'probe' as kind,
        probes.metric,
        case when probes.metric = 'top1_agreement' then probes.per_step else exp(-probes.per_step) end as score,
        -- First order: a logarithm's error is relative.
        probes.per_step_se
        * case when probes.metric = 'top1_agreement' then 1 else exp(-probes.per_step) end as score_se,
        1.0 as score_dense,
        0.0 as score_dense_se
    from variants
    inner join probe_errors as probes
        on variants.model = probes.model and variants.recipe = probes.recipe
),

drops as (
    select
        model,
        method,
        chosen_by,
        k,
        task_group,
        kind,
        metric,
        avg(score) as score,
        -- Averages of independent scores; without one of their errors the average has none.
        case when count(score_se) = count(*) then sqrt(sum(score_se ** 2)) / count(*) end as score_se,
        any_value(score_dense) as score_dense,
        any_value(score_dense_se) as score_dense_se
    from measured
    group by model, method, chosen_by, k, task_group, kind, metric
),

points as (
    select
        model,
        method,
        chosen_by,
        task_group,
        kind,
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
        task_group,
        kind,
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
        task_group,
        kind,
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
        lag(k) over along as k_before,
        lag(height) over along as height_before,
        -- A curve with an unknown point says nothing.
        count(height) over whole = count(*) over whole as is_whole
    from curves
    window
        whole as (partition by model, method, chosen_by, task_group, kind, metric, curve),
        along as (partition by model, method, chosen_by, task_group, kind, metric, curve order by k)
),

crossings as (
    select
        model,
        method,
        chosen_by,
        task_group,
        kind,
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
    group by model, method, chosen_by, task_group, kind, metric, curve
),

summaries as (
    select
        model,
        method,
        chosen_by,
        task_group,
        kind,
        metric,
        any_value(score_dense) as score_dense,
        count(*) as n_points,
        max(k) as k_largest,
        arg_max(score, k) as score_at_largest
    from drops
    group by model, method, chosen_by, task_group, kind, metric
),

found as (
    select
        model,
        method,
        chosen_by,
        task_group,
        kind,
        metric,
        max(k) filter (where curve = 'middle') as critical_k,
        max(k) filter (where curve = 'low') as critical_k_low,
        max(k) filter (where curve = 'high') as critical_k_high
    from crossings
    group by model, method, chosen_by, task_group, kind, metric
),

-- What halves by the same drops, in one row.
probes as (
    select
        model,
        method,
        chosen_by,
        max(critical_k) filter (where metric = 'top1_agreement') as top1,
        max(critical_k) filter (where metric = 'kl_kept') as kl
    from found
    where kind = 'probe'
    group by model, method, chosen_by
),

flips as (
    select
        variants.model,
        variants.method,
        variants.chosen_by,
        scores.task_group,
        scores.kind,
        scores.metric,
        min(variants.k) as k
    from variants
    inner join task_pairs as pairs
        on variants.model = pairs.model and variants.recipe = pairs.recipe
    inner join stg_task_scores as scores
        on
            pairs.model = scores.model
            and pairs.recipe = scores.recipe
            and pairs.task = scores.task
            and pairs.metric = scores.metric
    where pairs.is_flipped
    group by variants.model, variants.method, variants.chosen_by, scores.task_group, scores.kind, scores.metric
),

maths_flips as (
    select
        variants.model,
        variants.method,
        variants.chosen_by,
        min(variants.k) as k
    from variants
    inner join stg_generations as pruned
        on variants.model = pruned.model and variants.recipe = pruned.recipe
    inner join stg_generations as dense
        on pruned.model = dense.model and pruned.prompt_id = dense.prompt_id and dense.recipe = 'dense'
    where pruned.kind = 'maths' and pruned.answer is distinct from dense.answer
    group by variants.model, variants.method, variants.chosen_by
)

select
    summaries.model,
    summaries.method,
    summaries.chosen_by,
    summaries.task_group,
    summaries.kind,
    summaries.metric,
    summaries.score_dense,
    summaries.n_points,
    summaries.k_largest,
    summaries.score_at_largest,
    found.critical_k,
    found.critical_k_low,
    found.critical_k_high,
    probes.top1 as critical_k_top1,
    probes.kl as critical_k_kl,
    flips.k as first_flip_k,
    maths_flips.k as first_maths_flip_k
from summaries
left join found
    on
        summaries.model = found.model
        and summaries.method = found.method
        and summaries.chosen_by = found.chosen_by
        and summaries.task_group = found.task_group
        and summaries.kind = found.kind
        and summaries.metric = found.metric
left join probes
    on
        summaries.model = probes.model
        and summaries.method = probes.method
        and summaries.chosen_by = probes.chosen_by
left join flips
    on
        summaries.model = flips.model
        and summaries.method = flips.method
        and summaries.chosen_by = flips.chosen_by
        and summaries.task_group = flips.task_group
        and summaries.kind = flips.kind
        and summaries.metric = flips.metric
left join maths_flips
    on
        summaries.model = maths_flips.model
        and summaries.method = maths_flips.method
        and summaries.chosen_by = maths_flips.chosen_by
order by
    summaries.model,
    summaries.task_group,
    summaries.kind,
    summaries.metric,
    summaries.method,
    summaries.chosen_by
