-- Shift of h, z and p after every sublayer, over prompts and positions.
-- grain: one row per pruned variant × scope × layer × sublayer.
-- inputs: layer_summary, reference_temperature, reference_lens
select
    layer_summary.model, layer_summary.recipe, layer_summary.scope, layer_summary.layer, layer_summary.sublayer,
    layer_summary.is_changed, layer_summary.one_minus_cos_h_mean, layer_summary.one_minus_cos_z_mean,
    layer_summary.one_minus_cos_p_mean, layer_summary.kl_mean_nats, layer_summary.kl_noise_p95_nats
from layer_summary
semi join reference_temperature using (model, recipe, temperature)
semi join reference_lens using (model, lens)
where layer_summary.recipe <> 'dense'
order by layer_summary.model, layer_summary.recipe, layer_summary.scope, layer_summary.layer, layer_summary.sublayer
