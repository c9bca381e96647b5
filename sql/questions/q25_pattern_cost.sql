-- What does an N:M pattern cost against unstructured pruning at the same sparsity?
-- grain: one row per masked variant.
-- key: model, recipe
-- inputs: sparsity_patterns, variant_summary
-- how to read: pattern is kept:block, such as 2:4, or `unstructured`. The baseline is the unstructured variant of the
--   same model, method and sparsity in whole per cent (the one with the lowest KL if there are several); NULL if none
--   was run. kl is the mean teacher-forced KL(dense‖pruned), kl_ratio the variant's over the baseline's.
-- reason: a pattern gains speed on hardware; this is its cost in fidelity, for each method.
-- columns:
--   pattern: kept:block, such as 2:4, or unstructured
--   kl_nats: Mean teacher-forced KL(dense‖pruned) [nats]
--   baseline_recipe: The unstructured variant of the same model, method and sparsity
--   baseline_kl_nats: Mean teacher-forced KL(dense‖pruned) of the baseline [nats]
--   baseline_top1_agreement: Share of the baseline's steps with the same most likely token [share]
--   kl_ratio: Cost of the pattern [ratio] = kl_nats/baseline_kl_nats
with masked as (
    select
        patterns.*,
        totals.kl_teacher_forced_mean_nats as kl_nats,
        totals.top1_agreement
    from sparsity_patterns as patterns
    inner join variant_summary as totals using (model, recipe)
),

baselines as (
    select
        model, method, sparsity_percent,
        arg_min(recipe, row(kl_nats, recipe)) as baseline_recipe,
        arg_min(top1_agreement, row(kl_nats, recipe)) as baseline_top1_agreement,
        min(kl_nats) as baseline_kl_nats
    from masked
    where pattern = 'unstructured'
    group by all
)

select
    masked.model, masked.recipe, masked.method, masked.pattern, masked.sparsity, masked.kl_nats, masked.top1_agreement,
    baselines.baseline_recipe, baselines.baseline_kl_nats, baselines.baseline_top1_agreement,
    masked.kl_nats / nullif(baselines.baseline_kl_nats, 0) as kl_ratio
from masked
left join baselines using (model, method, sparsity_percent)
order by masked.model, masked.method, masked.sparsity, masked.pattern, masked.recipe
