-- How well each second-order estimate meets its truth.
-- grain: one row per model × recipe × scope × lens × temperature × sublayer × theorem.
-- key: model, recipe, scope, lens, temperature, sublayer, theorem
-- inputs: transitions_without_noise
-- how to read: ratio is estimate / truth, so above 1 the estimate overshoots. `T3 KL reversed` holds the same estimate
--   against KL(pruned‖dense); to second order both directions are equal. worst_layer is the layer whose median ratio is
--   furthest from 1 on a log scale. Correlations are NULL below 10 points or where one side does not vary. Dense and
--   untouched sublayers in local scope have no truth to meet and are left out, and so is noise.
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

-- Read once by each pass. Noise is left out first: a tenth of what moved, which the passes need not collect.
records as not materialized (
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
    from transitions_without_noise as transitions
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
    from records
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
    from records
    where one_minus_cos_h > 0 or one_minus_cos_z > 0
    group by model, recipe, layer, sublayer, scope, lens, temperature
),

theorem_1_worst as (
    select
        model,
        recipe,
        sublayer,
        scope,
        lens,
        temperature,
        worst_layer_of(layer, h) as h,
        worst_layer_of(layer, z) as z
    from theorem_1_layers
    group by model, recipe, sublayer, scope, lens, temperature
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
    from records
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
    from records
    where one_minus_cos_p > 0
    group by model, recipe, layer, sublayer, scope, lens, temperature
),

theorem_2_worst as (
    select
        model,
        recipe,
        sublayer,
        scope,
        lens,
        temperature,
        worst_layer_of(layer, p) as p
    from theorem_2_layers
    group by model, recipe, sublayer, scope, lens, temperature
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
    from records
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
    from records
    where kl_dense_pruned_nats > 0 or kl_pruned_dense_nats > 0
    group by model, recipe, layer, sublayer, scope, lens, temperature
),

theorem_3_worst as (
    select
        model,
        recipe,
        sublayer,
        scope,
        lens,
        temperature,
        worst_layer_of(layer, kl) as kl,
        worst_layer_of(layer, reversed_kl) as reversed_kl
    from theorem_3_layers
    group by model, recipe, sublayer, scope, lens, temperature
),

-- Joined theorem by theorem, so that a filter on theorem leaves out both passes of the others.
theorems as (
    select
        fits.model,
        fits.recipe,
        fits.sublayer,
        fits.scope,
        fits.lens,
        fits.temperature,
        'T1 h' as theorem,
        fits.h as fit,
        worst.h as worst
    from theorem_1_fits as fits
    inner join theorem_1_worst as worst
        on
            fits.model = worst.model
            and fits.recipe = worst.recipe
            and fits.sublayer = worst.sublayer
            and fits.scope = worst.scope
            and fits.lens = worst.lens
            and fits.temperature = worst.temperature

    union all

    select
        fits.model,
        fits.recipe,
        fits.sublayer,
        fits.scope,
        fits.lens,
        fits.temperature,
        'T1 z' as theorem,
        fits.z as fit,
        worst.z as worst
    from theorem_1_fits as fits
    inner join theorem_1_worst as worst
        on
            fits.model = worst.model
            and fits.recipe = worst.recipe
            and fits.sublayer = worst.sublayer
            and fits.scope = worst.scope
            and fits.lens = worst.lens
            and fits.temperature = worst.temperature

    union all

    select
        fits.model,
        fits.recipe,
        fits.sublayer,
        fits.scope,
        fits.lens,
        fits.temperature,
        'T2 p' as theorem,
        fits.p as fit,
        worst.p as worst
    from theorem_2_fits as fits
    inner join theorem_2_worst as worst
        on
            fits.model = worst.model
            and fits.recipe = worst.recipe
            and fits.sublayer = worst.sublayer
            and fits.scope = worst.scope
            and fits.lens = worst.lens
            and fits.temperature = worst.temperature

    union all

    select
        fits.model,
        fits.recipe,
        fits.sublayer,
        fits.scope,
        fits.lens,
        fits.temperature,
        'T3 KL' as theorem,
        fits.kl as fit,
        worst.kl as worst
    from theorem_3_fits as fits
    inner join theorem_3_worst as worst
        on
            fits.model = worst.model
            and fits.recipe = worst.recipe
            and fits.sublayer = worst.sublayer
            and fits.scope = worst.scope
            and fits.lens = worst.lens
            and fits.temperature = worst.temperature

    union all

    select
        fits.model,
        fits.recipe,
        fits.sublayer,
        fits.scope,
        fits.lens,
        fits.temperature,
        'T3 KL reversed' as theorem,
        fits.reversed_kl as fit,
        worst.reversed_kl as worst
    from theorem_3_fits as fits
    inner join theorem_3_worst as worst
        on
            fits.model = worst.model
            and fits.recipe = worst.recipe
            and fits.sublayer = worst.sublayer
            and fits.scope = worst.scope
            and fits.lens = worst.lens
            and fits.temperature = worst.temperature
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
