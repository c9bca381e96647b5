-- How well each second-order estimate meets its truth.
-- grain: one row per model × recipe × scope × lens × temperature × sublayer × theorem.
-- key: model, recipe, scope, lens, temperature, sublayer, theorem
-- inputs: estimate_points, stg_layer_transitions, noise_variants
-- how to read: ratio is estimate / truth, so above 1 the estimate overshoots. `T3 KL reversed` holds the same estimate
--   against KL(pruned‖dense); to second order both directions are equal. worst_layer is the layer whose median ratio is
--   furthest from 1 on a log scale. Correlations are NULL below 10 points or where one side does not vary.
--   Dense and untouched sublayers in local scope have no truth to meet and are left out, and so is noise.
-- reason: q02, q03 and q04 ask the same thing of different theorems.
-- columns:
--   theorem: Which estimate: T1 h, T1 z, T2 p, T3 KL or, against KL(pruned‖dense), T3 KL reversed
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

points as (
    select
        model,
        recipe,
        layer,
        sublayer,
        scope,
        lens,
        temperature,
        theorem,
        cast(estimate as double) as estimate,
        cast(truth as double) as truth
    from estimate_points

    union all

    select
        transitions.model,
        transitions.recipe,
        transitions.layer,
        transitions.sublayer,
        transitions.scope,
        transitions.lens,
        transitions.temperature,
        'T3 KL reversed' as theorem,
        cast(transitions.t3_kl_nats as double) as estimate,
        cast(transitions.kl_pruned_dense_nats as double) as truth
    from stg_layer_transitions as transitions
    anti join noise_variants
        on transitions.model = noise_variants.model and transitions.recipe = noise_variants.recipe
    where transitions.kl_pruned_dense_nats > 0
),

layers as (
    select
        model,
        recipe,
        layer,
        sublayer,
        scope,
        lens,
        temperature,
        theorem,
        median(estimate / truth) as ratio_median
    from points
    group by model, recipe, layer, sublayer, scope, lens, temperature, theorem
),

worst_layers as (
    select
        model,
        recipe,
        sublayer,
        scope,
        lens,
        temperature,
        theorem,
        -- Of equal offenders the first layer is named; an estimate of 0 is the worst there is.
        arg_min(
            row(layer, ratio_median),
            row(-abs(ln(greatest(ratio_median, 1e-300))), layer)
        ) as worst
    from layers
    group by model, recipe, sublayer, scope, lens, temperature, theorem
),

fits as (
    select
        model,
        recipe,
        sublayer,
        scope,
        lens,
        temperature,
        theorem,
        count(*) as n,
        correlation(log10_positive(estimate), log10_positive(truth)) as pearson_log10,
        correlation(estimate, truth) as pearson,
        quantile_cont(estimate / truth, [0.1, 0.5, 0.9]) as ratio_quantiles,
        avg(cast(abs(estimate / truth - 1) <= 0.1 as integer)) as share_within_10_percent
    from points
    group by model, recipe, sublayer, scope, lens, temperature, theorem
)

select
    fits.model,
    fits.recipe,
    fits.scope,
    fits.lens,
    fits.temperature,
    fits.sublayer,
    fits.theorem,
    fits.n,
    fits.pearson_log10,
    fits.pearson,
    fits.ratio_quantiles[2] as ratio_median,
    fits.ratio_quantiles[1] as ratio_p10,
    fits.ratio_quantiles[3] as ratio_p90,
    fits.share_within_10_percent,
    worst_layers.worst[1] as worst_layer,
    worst_layers.worst[2] as worst_layer_ratio_median
from fits
inner join worst_layers
    on
        fits.model = worst_layers.model
        and fits.recipe = worst_layers.recipe
        and fits.sublayer = worst_layers.sublayer
        and fits.scope = worst_layers.scope
        and fits.lens = worst_layers.lens
        and fits.temperature = worst_layers.temperature
        and fits.theorem = worst_layers.theorem
