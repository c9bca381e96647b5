-- How far each sublayer moves h, z and p, averaged over prompts and positions.
-- grain: one row per model × recipe × layer × sublayer × scope × lens × temperature.
-- key: model, recipe, layer, sublayer, scope, lens, temperature
-- inputs: stg_layer_transitions
-- how to read: local scope is the effect of this sublayer alone, propagated that of all pruned sublayers up to it.
--   Where is_changed is false the local shift is exactly 0 by construction and the propagated one comes from earlier
--   layers. The cosines are 1 − one_minus_cos; for small shifts read one_minus_cos_*_mean, which keeps its digits.
-- reason: a chart of a quantity against depth needs about a thousand rows, not one per token.
with

spread as (
    select
        model,
        recipe,
        layer,
        sublayer,
        scope,
        lens,
        temperature,
        bool_or(is_changed) as is_changed,
        count(*) as positions,
        avg(one_minus_cos_h) as one_minus_cos_h_mean,
        avg(one_minus_cos_z) as one_minus_cos_z_mean,
        avg(one_minus_cos_p) as one_minus_cos_p_mean,
        -- One list per quantity, so that its values are kept once and not once per quantile.
        quantile_cont(one_minus_cos_h, [0.1, 0.9]) as one_minus_cos_h_spread,
        quantile_cont(one_minus_cos_z, [0.1, 0.9]) as one_minus_cos_z_spread,
        quantile_cont(one_minus_cos_p, [0.1, 0.9]) as one_minus_cos_p_spread,
        avg(kl_dense_pruned_nats) as kl_mean_nats,
        median(kl_dense_pruned_nats) as kl_median_nats,
        avg(var_p_dz) as var_p_dz_mean,
        avg(orth_rel_h) as orth_rel_h_mean
    from stg_layer_transitions
    group by model, recipe, layer, sublayer, scope, lens, temperature
)

select
    model,
    recipe,
    layer,
    sublayer,
    scope,
    lens,
    temperature,
    is_changed,
    positions,
    1 - one_minus_cos_h_mean as cos_h_mean,
    1 - one_minus_cos_h_spread[2] as cos_h_p10,
    1 - one_minus_cos_h_spread[1] as cos_h_p90,
    1 - one_minus_cos_z_mean as cos_z_mean,
    1 - one_minus_cos_z_spread[2] as cos_z_p10,
    1 - one_minus_cos_z_spread[1] as cos_z_p90,
    1 - one_minus_cos_p_mean as cos_p_mean,
    1 - one_minus_cos_p_spread[2] as cos_p_p10,
    1 - one_minus_cos_p_spread[1] as cos_p_p90,
    one_minus_cos_h_mean,
    one_minus_cos_z_mean,
    one_minus_cos_p_mean,
    kl_mean_nats,
    kl_median_nats,
    var_p_dz_mean,
    orth_rel_h_mean
from spread
