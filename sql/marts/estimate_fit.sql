-- How well each second-order estimate meets its truth.
-- grain: one row per model × recipe × scope × lens × temperature × sublayer × theorem.
-- key: model, recipe, scope, lens, temperature, sublayer, theorem
-- inputs: stg_layer_transitions, noise_variants
-- how to read: ratio is estimate / truth, so above 1 the estimate overshoots. `T3 KL reversed` holds the same estimate
--   against KL(pruned‖dense); to second order both directions are equal. worst_layer is the layer whose median ratio is
--   furthest from 1 on a log scale. Correlations are NULL below 10 points or where one side does not vary.
--   Dense and untouched sublayers in local scope have no truth to meet and are left out, and so is noise.
-- reason: q02, q03 and q04 ask the same thing of different theorems. One pass a theorem serves both of its estimates,
--   and a filter on theorem leaves the other passes out.
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

-- Read once a theorem rather than kept: a hundred million rows are cheaper to read than to store.
compared as not materialized (
    select
        transitions.model,
        transitions.recipe,
        transitions.layer,
        transitions.sublayer,
        transitions.scope,
        transitions.lens,
        transitions.temperature,
        transitions.t1_h,
        transitions.one_minus_cos_h,
        transitions.t1_z,
        transitions.one_minus_cos_z,
        transitions.t2_p,
        transitions.one_minus_cos_p,
        transitions.t3_kl_nats,
        transitions.kl_dense_pruned_nats,
        transitions.kl_pruned_dense_nats
    from stg_layer_transitions as transitions
    anti join noise_variants
        on transitions.model = noise_variants.model and transitions.recipe = noise_variants.recipe
),

theorem_1_fits as (
    select
        model,
        recipe,
        sublayer,
        scope,
        lens,
        temperature,
        fit_to_truth(t1_h, one_minus_cos_h) as h,
        fit_to_truth(t1_z, one_minus_cos_z) as z
    from compared
    where one_minus_cos_h > 0 or one_minus_cos_z > 0
    group by model, recipe, sublayer, scope, lens, temperature
),

theorem_1_layers as (
    select
        model,
        recipe,
        layer,
        sublayer,
        scope,
        lens,
        temperature,
        median(ratio_to_truth(t1_h, one_minus_cos_h)) as h,
        median(ratio_to_truth(t1_z, one_minus_cos_z)) as z
    from compared
    where one_minus_cos_h > 0 or one_minus_cos_z > 0
    group by model, recipe, layer, sublayer, scope, lens, temperature
),

theorem_2_fits as (
    select
        model,
        recipe,
        sublayer,
        scope,
        lens,
        temperature,
        fit_to_truth(t2_p, one_minus_cos_p) as p
    from compared
    where one_minus_cos_p > 0
    group by model, recipe, sublayer, scope, lens, temperature
),

theorem_2_layers as (
    select
        model,
        recipe,
        layer,
        sublayer,
        scope,
        lens,
        temperature,
        median(ratio_to_truth(t2_p, one_minus_cos_p)) as p
    from compared
    where one_minus_cos_p > 0
    group by model, recipe, layer, sublayer, scope, lens, temperature
),

theorem_3_fits as (
    select
        model,
        recipe,
        sublayer,
        scope,
        lens,
        temperature,
        fit_to_truth(t3_kl_nats, kl_dense_pruned_nats) as kl,
        fit_to_truth(t3_kl_nats, kl_pruned_dense_nats) as reversed_kl
    from compared
    where kl_dense_pruned_nats > 0 or kl_pruned_dense_nats > 0
    group by model, recipe, sublayer, scope, lens, temperature
),

theorem_3_layers as (
    select
        model,
        recipe,
        layer,
        sublayer,
        scope,
        lens,
        temperature,
        median(ratio_to_truth(t3_kl_nats, kl_dense_pruned_nats)) as kl,
        median(ratio_to_truth(t3_kl_nats, kl_pruned_dense_nats)) as reversed_kl
    from compared
    where kl_dense_pruned_nats > 0 or kl_pruned_dense_nats > 0
    group by model, recipe, layer, sublayer, scope, lens, temperature
),

fits as (
    select
        model,
        recipe,
        sublayer,
        scope,
        lens,
        temperature,
        'T1 h' as theorem,
        h as fit
    from theorem_1_fits

    union all

    select
        model,
        recipe,
        sublayer,
        scope,
        lens,
        temperature,
        'T1 z' as theorem,
        z as fit
    from theorem_1_fits

    union all

    select
        model,
        recipe,
        sublayer,
        scope,
        lens,
        temperature,
        'T2 p' as theorem,
        p as fit
    from theorem_2_fits

    union all

    select
        model,
        recipe,
        sublayer,
        scope,
        lens,
        temperature,
        'T3 KL' as theorem,
        kl as fit
    from theorem_3_fits

    union all

    select
        model,
        recipe,
        sublayer,
        scope,
        lens,
        temperature,
        'T3 KL reversed' as theorem,
        reversed_kl as fit
    from theorem_3_fits
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
        'T1 h' as theorem,
        h as ratio_median
    from theorem_1_layers

    union all

    select
        model,
        recipe,
        layer,
        sublayer,
        scope,
        lens,
        temperature,
        'T1 z' as theorem,
        z as ratio_median
    from theorem_1_layers

    union all

    select
        model,
        recipe,
        layer,
        sublayer,
        scope,
        lens,
        temperature,
        'T2 p' as theorem,
        p as ratio_median
    from theorem_2_layers

    union all

    select
        model,
        recipe,
        layer,
        sublayer,
        scope,
        lens,
        temperature,
        'T3 KL' as theorem,
        kl as ratio_median
    from theorem_3_layers

    union all

    select
        model,
        recipe,
        layer,
        sublayer,
        scope,
        lens,
        temperature,
        'T3 KL reversed' as theorem,
        reversed_kl as ratio_median
    from theorem_3_layers
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
    where ratio_median is not null
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
inner join worst_layers
    on
        fits.model = worst_layers.model
        and fits.recipe = worst_layers.recipe
        and fits.sublayer = worst_layers.sublayer
        and fits.scope = worst_layers.scope
        and fits.lens = worst_layers.lens
        and fits.temperature = worst_layers.temperature
        and fits.theorem = worst_layers.theorem
