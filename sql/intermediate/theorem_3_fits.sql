-- How closely the estimates of Theorem 3 agree with KL in both directions.
-- grain: one row per model × recipe × scope × lens × temperature × sublayer × theorem.
-- key: model, recipe, scope, lens, temperature, sublayer, theorem
-- inputs: transitions_without_noise
-- how to read: estimate_fit has the fields of fit and worst as columns. fit.n is 0 where no truth is above 0.
-- reason: estimate_fit has one such view per theorem, so that one pass over the layer records serves all estimates of a
--   theorem and a filter on theorem skips the passes of the others.
-- columns:
--   theorem: Name of the estimate: T3 KL or T3 KL reversed
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
        fit_to_truth(t3_kl_nats, kl_dense_pruned_nats) as kl,
        fit_to_truth(t3_kl_nats, kl_pruned_dense_nats) as reversed_kl
    from transitions_without_noise
    where kl_dense_pruned_nats > 0 or kl_pruned_dense_nats > 0
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
        median(ratio_to_truth(t3_kl_nats, kl_dense_pruned_nats)) as kl,
        median(ratio_to_truth(t3_kl_nats, kl_pruned_dense_nats)) as reversed_kl
    from transitions_without_noise
    where kl_dense_pruned_nats > 0 or kl_pruned_dense_nats > 0
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
        worst_layer_of(layer, kl) as kl,
        worst_layer_of(layer, reversed_kl) as reversed_kl
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
    unnest(['T3 KL', 'T3 KL reversed']) as theorem,
    unnest([fits.kl, fits.reversed_kl]) as fit,
    unnest([worst_layers.kl, worst_layers.reversed_kl]) as worst
from fits
inner join worst_layers
    on
        fits.model = worst_layers.model
        and fits.recipe = worst_layers.recipe
        and fits.sublayer = worst_layers.sublayer
        and fits.scope = worst_layers.scope
        and fits.lens = worst_layers.lens
        and fits.temperature = worst_layers.temperature
