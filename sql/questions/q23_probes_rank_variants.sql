-- Do cheap probes rank the variants of a model as its tasks do?
-- grain: one row per model × probe × task group × kind of task × metric.
-- key: model, probe, task_group, kind, metric
-- inputs: task_group_scores, damage_probes
-- how to read: the mart damage_probes says what each probe is; only recipes that drop sublayers have influence. Each
--   probe is 0 for the dense model and larger for more damage. spearman and kendall_tau_b relate the probe, over the
--   pruned variants, to how much worse the task's score is than the dense one: 1 is the same ranking, 0 none. The
--   interval takes variants as independent (Bonett and Wright's, on Fisher's scale), and is NULL for a perfect ranking.
--   It is not corrected for the number of probes and tasks. NULL below 5 variants or if one side does not vary. Noise
--   variants are excluded. A group of tasks, such as MMLU, ranks as one (task_group_scores).
-- reason: a probe that ranks variants as the tasks do replaces days of evaluation.
-- columns:
--   metric: Name of the score within its task
--   n_variants: Pruned variants with both [variants]
--   spearman: Rank correlation of probe and loss; NULL below 5 variants [-1 to 1]
--   spearman_low: Lower end of its 95 % interval, Bonett and Wright's over variants [-1 to 1]
--   kendall_tau_b: Concordant minus discordant pairs of variants, ties discounted; NULL below 5 variants [-1 to 1]
with losses as (
    select
        pruned.model, pruned.recipe, pruned.task_group, pruned.kind, pruned.metric,
        case when pruned.is_higher_better then dense.score - pruned.score else pruned.score - dense.score end as loss
    from task_group_scores as pruned
    -- Means over different tasks are not comparable.
    inner join task_group_scores as dense using (model, task_group, kind, metric, n_tasks)
    where pruned.recipe <> 'dense' and dense.recipe = 'dense'
),

ranked as (
    select
        losses.*,
        probes.probe, probes.damage,
        count_below(
            probes.damage, row(losses.model, losses.task_group, losses.kind, losses.metric, probes.probe)
        ) as damage_below,
        count_below(
            losses.loss, row(losses.model, losses.task_group, losses.kind, losses.metric, probes.probe)
        ) as loss_below
    from losses
    inner join damage_probes as probes using (model, recipe)
),

fits as (
    select
        model, probe, task_group, kind, metric,
        count(*) as n_variants,
        spearman_of_counts(damage_below, loss_below) as spearman,
        case
            when count(*) >= 5 then kendall_tau_b(list(damage order by recipe), list(loss order by recipe))
        end as kendall_tau_b
    from ranked
    group by all
)

select
    model, probe, task_group, kind, metric, n_variants, spearman,
    interval_of_correlation(spearman, half_width_of_rank_correlation(spearman, n_variants))[1] as spearman_low,
    interval_of_correlation(spearman, half_width_of_rank_correlation(spearman, n_variants))[2] as spearman_high,
    kendall_tau_b
from fits
order by model, task_group, kind, metric, probe
