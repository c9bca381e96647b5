-- How closely each second-order estimate agrees with the quantity that it estimates.
-- grain: one row per model × recipe × scope × lens × temperature × sublayer × theorem.
-- key: model, recipe, scope, lens, temperature, sublayer, theorem
-- inputs: estimate_points, transitions_without_noise
-- how to read: ratio is estimate / truth, so above 1 the estimate overshoots. `T3 KL reversed` compares the same
--   estimate with KL(pruned‖dense); to second order both directions are equal. worst_layer is the layer whose median
--   ratio is furthest from 1 on a log scale. Correlations are NULL below 10 points or if one side does not vary. The
--   dense recipe and untouched sublayers in local scope have no shift and are excluded, as are noise variants.
-- reason: q02, q03 and q04 ask the same question about different theorems. The points are not materialized, because a
--   filter on theorem then skips the layer records of the others.
-- columns:
--   theorem: Name of the estimate: T1 h, T1 z, T2 p, T3 KL or, against KL(pruned‖dense), T3 KL reversed
--   n: Points with a truth above 0 [points]
--   pearson_log10: Correlation of the logarithms; NULL below 10 points [-1 to 1] = corr(log10 estimate, log10 truth)
--   pearson: Correlation; NULL below 10 points [-1 to 1] = corr(estimate, truth)
--   ratio_median: Median of estimate over truth; above 1 the estimate overshoots [ratio] = estimate/truth
--   ratio_p10: 10th percentile of estimate over truth [ratio] = estimate/truth
--   share_within_10_percent: Share of points whose estimate is within 10 % of the truth [share]
--   worst_layer: Layer whose median ratio is furthest from 1 on a log scale
--   worst_layer_ratio_median: Median of estimate over truth in that layer [ratio]
with points as not materialized (
    select * exclude (prompt_id, position)
    from estimate_points
    union all
    select
        model, recipe, layer, sublayer, scope, lens, temperature,
        'T3 KL reversed' as theorem,
        t3_kl_nats as estimate,
        kl_pruned_dense_nats as truth
    from transitions_without_noise
    where kl_pruned_dense_nats > 0
),

fits as (
    select
        model, recipe, scope, lens, temperature, sublayer, theorem,
        fit_to_truth(estimate, truth) as fit
    from points
    group by all
),

layers as (
    select
        model, recipe, scope, lens, temperature, sublayer, theorem, layer,
        median(ratio_to_truth(estimate, truth)) as ratio
    from points
    group by all
),

worst_layers as (
    select
        model, recipe, scope, lens, temperature, sublayer, theorem,
        worst_layer_of(layer, ratio) as worst
    from layers
    group by all
)

select
    fits.model, fits.recipe, fits.scope, fits.lens, fits.temperature, fits.sublayer, fits.theorem,
    fits.fit.n,
    fits.fit.pearson_log10,
    fits.fit.pearson,
    fits.fit.ratio_quantiles[2] as ratio_median,
    fits.fit.ratio_quantiles[1] as ratio_p10,
    fits.fit.ratio_quantiles[3] as ratio_p90,
    fits.fit.share_within_10_percent,
    worst_layers.worst[1] as worst_layer,
    worst_layers.worst[2] as worst_layer_ratio_median
from fits
inner join worst_layers using (model, recipe, scope, lens, temperature, sublayer, theorem)
