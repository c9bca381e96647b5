-- How closely the estimates of Theorem 1 agree with 1 − cos of h and of z.
-- grain: one row per model × recipe × scope × lens × temperature × sublayer × theorem.
-- key: model, recipe, scope, lens, temperature, sublayer, theorem
-- inputs: transitions_without_noise
-- how to read: estimate_fit has the fields of fit and worst as columns. fit.n is 0 where no truth is above 0.
-- reason: estimate_fit has one such view per theorem, so that one pass over the layer records serves all estimates of a
--   theorem and a filter on theorem skips the passes of the others.
-- columns:
--   theorem: Name of the estimate: T1 h or T1 z
--   fit: Number of points, correlations, quantiles of estimate over truth and share within 10 % [struct]
--   worst: Layer whose median ratio is furthest from 1 on a log scale, and that ratio [struct]
with

fits as (
    select
        model,
        recipe,
        sublayer,
        scope,
        lens,
        temperature,
        fit_to_truth(t1_h, one_minus_cos_h) as h,
        fit_to_truth(t1_z, one_minus_cos_z) as z
    from transitions_without_noise
    where one_minus_cos_h > 0 or one_minus_cos_z > 0
    group by model, recipe, sublayer, scope, lens, temperature
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
        median(ratio_to_truth(t1_h, one_minus_cos_h)) as h,
        median(ratio_to_truth(t1_z, one_minus_cos_z)) as z
    from transitions_without_noise
    where one_minus_cos_h > 0 or one_minus_cos_z > 0
    group by model, recipe, layer, sublayer, scope, lens, temperature
),

worst_layers as (
    select
        model,
        recipe,
        sublayer,
        scope,
        lens,
        temperature,
        worst_layer_of(layer, h) as h,
        worst_layer_of(layer, z) as z
    from layers
    group by model, recipe, sublayer, scope, lens, temperature
)

-- Lists unnested in one select are expanded in parallel.
select
    fits.model,
    fits.recipe,
    fits.sublayer,
    fits.scope,
    fits.lens,
    fits.temperature,
    unnest(['T1 h', 'T1 z']) as theorem,
    unnest([fits.h, fits.z]) as fit,
    unnest([worst_layers.h, worst_layers.z]) as worst
from fits
inner join worst_layers
    on
        fits.model = worst_layers.model
        and fits.recipe = worst_layers.recipe
        and fits.sublayer = worst_layers.sublayer
        and fits.scope = worst_layers.scope
        and fits.lens = worst_layers.lens
        and fits.temperature = worst_layers.temperature
