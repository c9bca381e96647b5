-- After how many dropped sublayers or blocks does a task's score halve, and do cheap probes halve there too?
-- grain: one row per model × kind of drop × way of choosing × task group × kind of task × metric.
-- key: model, method, chosen_by, task_group, kind, metric
-- inputs: critical_drops, drop_variants, stg_task_scores, task_pairs, stg_generations
-- how to read: a group of tasks, such as MMLU, is one score (task_group_scores). critical_k is the number of drops at
--   which the score first falls to half the dense one, interpolated linearly between neighbouring numbers of drops,
--   from the dense model (k = 0) on; variants of equal k are averaged. Its interval is where half the dense score is
--   within the 95 % band of the scores. The band is made of Wilson's intervals of variant and dense model, taken as
--   independent, for each number of drops by itself. Nothing is extrapolated, so numbers are NULL beyond k_largest:
--   with critical_k_low and no critical_k the score may have halved already; with critical_k and no critical_k_high it
--   may not have. Bounds are NULL if a score or a probe has no interval. A task whose score by chance is above half the
--   dense one never halves. Only metrics that are better when higher and have a dense score above 0 are included. Rows
--   of kind probe (task_group probes) do the same for the probes of drop_probe_scores, which are 1 for the dense model.
--   critical_k_top1 and critical_k_kl repeat two of them for every task of the same drops.
-- reason: turns the cliff of the paper's Figure 1 into one number per task; generation reaches it first.
-- columns:
--   method: Kind of drop, such as attn-drop [label]
--   chosen_by: Criterion that chose the units, such as influence [label]
--   task_group: Name of the task, of the group that the task belongs to, or probes [label]
--   kind: How the task is answered, or probe if no task is asked [label]
--   metric: Name of the score within its task, or of the probe
--   critical_k_top1: Number of the same drops at which top1_agreement halves [units]
--   critical_k_kl: Number of the same drops at which exp(−mean KL) halves: the mean KL is ln 2 nats [units]
--   first_flip_k: Mildest drop at which an answer to the task differs from the dense model's; NULL if none does or no
--     sample is known [units]
--   first_maths_flip_k: Mildest drop at which the answer to a maths prompt differs from the dense model's; NULL if none
--     does or there is no such prompt [units]
with

-- A CTE that is read twice is computed once.
critical as (
    select * from critical_drops
),

-- The critical numbers of two probes for the same drops, in one row.
probes as (
    select
        model, method, chosen_by,
        max(critical_k) filter (where metric = 'top1_agreement') as top1,
        max(critical_k) filter (where metric = 'kl_kept') as kl
    from critical
    where kind = 'probe'
    group by all
),

flips as (
    select
        variants.model, variants.method, variants.chosen_by, scores.task_group, scores.kind, scores.metric,
        min(variants.k) as k
    from drop_variants as variants
    inner join task_pairs as pairs using (model, recipe)
    inner join stg_task_scores as scores using (model, recipe, task, metric)
    where pairs.is_flipped
    group by all
),

maths_flips as (
    select
        variants.model, variants.method, variants.chosen_by,
        min(variants.k) as k
    from drop_variants as variants
    inner join stg_generations as pruned using (model, recipe)
    inner join stg_generations as dense using (model, prompt_id)
    where dense.recipe = 'dense' and pruned.kind = 'maths' and pruned.answer is distinct from dense.answer
    group by all
)

select
    critical.model, critical.method, critical.chosen_by, critical.task_group, critical.kind, critical.metric,
    critical.score_dense, critical.n_points, critical.k_largest, critical.score_at_largest, critical.critical_k,
    critical.critical_k_low, critical.critical_k_high,
    probes.top1 as critical_k_top1,
    probes.kl as critical_k_kl,
    flips.k as first_flip_k,
    maths_flips.k as first_maths_flip_k
from critical
left join probes using (model, method, chosen_by)
left join flips using (model, method, chosen_by, task_group, kind, metric)
left join maths_flips using (model, method, chosen_by)
order by critical.model, critical.task_group, critical.kind, critical.metric, critical.method, critical.chosen_by
