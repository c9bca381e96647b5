-- How far each sublayer moves h, z and p, averaged over prompts and positions.
-- grain: one row per model × recipe × layer × sublayer × scope × lens × temperature.
-- key: model, recipe, layer, sublayer, scope, lens, temperature
-- inputs: transitions_without_noise, noise_floor
-- how to read: scope local is the effect of this sublayer alone, isolated the same effect at the model's output,
--   propagated the effect of all pruned sublayers up to this one, restored that of all but this one. If is_changed is
--   false, the local shift is exactly 0 by construction and the propagated one comes from earlier layers. The cosines
--   are 1 − one_minus_cos; for small shifts read one_minus_cos_*, which keep their digits. is_below_noise says that
--   kl_median_nats is at most kl_noise_p95_nats, the 95th percentile of noise_floor at the same sublayer and scope.
--   Both are NULL if no noise was measured. Noise variants are excluded.
-- reason: a chart of a quantity against depth needs about a thousand rows, not one per token.
-- columns:
--   is_changed: Whether the recipe changed this sublayer's weights or dropped it
--   positions: Positions, all prompts together [positions]
--   cos_h_mean: Mean of the cosine of h [cosine] = 1 − one_minus_cos_h_mean
--   cos_h_p10: 10th percentile of the cosine of h [cosine] = 1 − 90th percentile of one_minus_cos_h
--   cos_h_p90: 90th percentile of the cosine of h [cosine] = 1 − 10th percentile of one_minus_cos_h
--   cos_z_mean: Mean of the cosine of z [cosine] = 1 − one_minus_cos_z_mean
--   cos_z_p10: 10th percentile of the cosine of z [cosine] = 1 − 90th percentile of one_minus_cos_z
--   cos_z_p90: 90th percentile of the cosine of z [cosine] = 1 − 10th percentile of one_minus_cos_z
--   cos_p_mean: Mean of the cosine of p [cosine] = 1 − one_minus_cos_p_mean
--   cos_p_p10: 10th percentile of the cosine of p [cosine] = 1 − 90th percentile of one_minus_cos_p
--   cos_p_p90: 90th percentile of the cosine of p [cosine] = 1 − 10th percentile of one_minus_cos_p
--   one_minus_cos_h_mean: Mean cosine defect of h [1 - cosine]
--   one_minus_cos_h_p10: 10th percentile of the cosine defect of h [1 - cosine]
--   one_minus_cos_z_mean: Mean cosine defect of z [1 - cosine]
--   one_minus_cos_z_p10: 10th percentile of the cosine defect of z [1 - cosine]
--   one_minus_cos_p_mean: Mean cosine defect of p [1 - cosine]
--   one_minus_cos_p_p10: 10th percentile of the cosine defect of p [1 - cosine]
--   kl_mean_nats: Mean KL(dense‖pruned) [nats]
--   kl_median_nats: Median KL(dense‖pruned) [nats]
--   var_p_dz_mean: Mean variance of Δz under the dense p [logit²] = mean Var_p(Δz)
--   orth_rel_h_mean: Mean length of the shift orthogonal to h, relative to h [ratio] = mean ‖Δh⊥‖/‖h‖
--   kl_noise_p95_nats: 95th percentile of the KL that rounding alone causes at this sublayer and scope; NULL without
--     noise [nats]
--   is_below_noise: Whether the median KL is at most what rounding causes; NULL without noise = kl_median_nats <=
--     kl_noise_p95_nats
with spread as (
    select
        transitions.model, transitions.recipe, transitions.layer, transitions.sublayer, transitions.scope,
        transitions.lens, transitions.temperature,
        bool_or(transitions.is_changed) as is_changed,
        count(*) as positions,
        avg(transitions.one_minus_cos_h) as one_minus_cos_h_mean,
        avg(transitions.one_minus_cos_z) as one_minus_cos_z_mean,
        avg(transitions.one_minus_cos_p) as one_minus_cos_p_mean,
        -- One call per quantity holds its values in memory once, not once per quantile.
        quantile_cont(transitions.one_minus_cos_h, [0.1, 0.9]) as one_minus_cos_h_spread,
        quantile_cont(transitions.one_minus_cos_z, [0.1, 0.9]) as one_minus_cos_z_spread,
        quantile_cont(transitions.one_minus_cos_p, [0.1, 0.9]) as one_minus_cos_p_spread,
        avg(transitions.kl_dense_pruned_nats) as kl_mean_nats,
        median(transitions.kl_dense_pruned_nats) as kl_median_nats,
        avg(transitions.var_p_dz) as var_p_dz_mean,
        avg(transitions.orth_rel_h) as orth_rel_h_mean
    from transitions_without_noise as transitions
    group by all
)

select
    spread.model, spread.recipe, spread.layer, spread.sublayer, spread.scope, spread.lens, spread.temperature,
    spread.is_changed, spread.positions,
    1 - spread.one_minus_cos_h_mean as cos_h_mean,
    1 - spread.one_minus_cos_h_spread[2] as cos_h_p10,
    1 - spread.one_minus_cos_h_spread[1] as cos_h_p90,
    1 - spread.one_minus_cos_z_mean as cos_z_mean,
    1 - spread.one_minus_cos_z_spread[2] as cos_z_p10,
    1 - spread.one_minus_cos_z_spread[1] as cos_z_p90,
    1 - spread.one_minus_cos_p_mean as cos_p_mean,
    1 - spread.one_minus_cos_p_spread[2] as cos_p_p10,
    1 - spread.one_minus_cos_p_spread[1] as cos_p_p90,
    spread.one_minus_cos_h_mean,
    spread.one_minus_cos_h_spread[1] as one_minus_cos_h_p10,
    spread.one_minus_cos_h_spread[2] as one_minus_cos_h_p90,
    spread.one_minus_cos_z_mean,
    spread.one_minus_cos_z_spread[1] as one_minus_cos_z_p10,
    spread.one_minus_cos_z_spread[2] as one_minus_cos_z_p90,
    spread.one_minus_cos_p_mean,
    spread.one_minus_cos_p_spread[1] as one_minus_cos_p_p10,
    spread.one_minus_cos_p_spread[2] as one_minus_cos_p_p90,
    spread.kl_mean_nats, spread.kl_median_nats, spread.var_p_dz_mean, spread.orth_rel_h_mean,
    floors.kl_p95_nats as kl_noise_p95_nats,
    spread.kl_median_nats <= floors.kl_p95_nats as is_below_noise
from spread
left join noise_floor as floors using (model, layer, sublayer, scope, lens, temperature)
