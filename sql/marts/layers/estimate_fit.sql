-- How closely each second-order estimate agrees with the quantity that it estimates.
-- grain: one row per model × recipe × scope × lens × temperature × sublayer × theorem.
-- key: model, recipe, scope, lens, temperature, sublayer, theorem
-- inputs: theorem_1_fits, theorem_2_fits, theorem_3_fits
-- how to read: ratio is estimate / truth, so above 1 the estimate overshoots. `T3 KL reversed` compares the same
--   estimate with KL(pruned‖dense); to second order both directions are equal. worst_layer is the layer whose median
--   ratio is furthest from 1 on a log scale. Correlations are NULL below 10 points or where one side does not vary. The
--   dense recipe and untouched sublayers in local scope have no shift and are excluded, as are noise variants.
-- reason: q02, q03 and q04 ask the same question of different theorems. Each theorem has a view of its own, so that a
--   filter on theorem skips the layer records of the others.
-- columns:
--   theorem: Name of the estimate: T1 h, T1 z, T2 p, T3 KL or, against KL(pruned‖dense), T3 KL reversed
--   n: Points with a truth above 0 [points]
--   pearson_log10: Correlation of the logarithms; NULL below 10 points [-1 to 1] = corr(log10 estimate, log10 truth)
--   pearson: Correlation; NULL below 10 points [-1 to 1] = corr(estimate, truth)
--   ratio_median: Median of estimate over truth; above 1 the estimate overshoots [ratio] = estimate/truth
--   ratio_p10: 10th percentile of estimate over truth [ratio] = estimate/truth
--   ratio_p90: 90th percentile of estimate over truth [ratio] = estimate/truth
--   share_within_10_percent: Share of points whose estimate is within 10 % of the truth [share]
--   worst_layer: Layer whose median ratio is furthest from 1 on a log scale
--   worst_layer_ratio_median: Median of estimate over truth in that layer [ratio]
with

theorems as (
    select * from theorem_1_fits
    union all by name
    select * from theorem_2_fits
    union all by name
    select * from theorem_3_fits
)

select
    theorems.model,
    theorems.recipe,
    theorems.scope,
    theorems.lens,
    theorems.temperature,
    theorems.sublayer,
    theorems.theorem,
    theorems.fit.n,
    theorems.fit.pearson_log10,
    theorems.fit.pearson,
    theorems.fit.ratio_quantiles[2] as ratio_median,
    theorems.fit.ratio_quantiles[1] as ratio_p10,
    theorems.fit.ratio_quantiles[3] as ratio_p90,
    theorems.fit.share_within_10_percent,
    theorems.worst[1] as worst_layer,
    theorems.worst[2] as worst_layer_ratio_median
from theorems
where theorems.fit.n > 0
