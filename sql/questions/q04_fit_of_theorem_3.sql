-- How well does Theorem 3, Var_p(Δz) / (2T²), estimate the KL divergence, in both directions?
-- grain: one row per model × recipe × scope × lens × temperature × sublayer × direction.
-- key: model, recipe, scope, lens, temperature, sublayer, direction
-- inputs: estimate_fit
-- how to read: direction `dense_pruned` is KL(dense‖pruned), the theorem's own, `pruned_dense` the other one. ratio is
--   estimate / truth: above 1 the estimate overshoots. Rows without a truth (dense, untouched sublayers in local scope)
--   are excluded; correlations are NULL below 10 points or if one side does not vary.
-- reason: one estimate serves both directions only if the shift is small; their gap shows where it is not.
-- columns:
--   direction: dense_pruned for KL(dense‖pruned), pruned_dense for KL(pruned‖dense)
select
    fit.model, fit.recipe, fit.scope, fit.lens, fit.temperature, fit.sublayer,
    case fit.theorem when 'T3 KL' then 'dense_pruned' else 'pruned_dense' end as direction,
    fit.n, fit.pearson_log10, fit.pearson, fit.ratio_median, fit.ratio_p10, fit.ratio_p90, fit.share_within_10_percent,
    fit.worst_layer, fit.worst_layer_ratio_median
from estimate_fit as fit
where fit.theorem in ('T3 KL', 'T3 KL reversed')
order by fit.model, fit.recipe, fit.scope, fit.lens, fit.temperature, fit.sublayer, direction
