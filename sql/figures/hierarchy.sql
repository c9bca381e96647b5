-- Cosine between dense and pruned in h, z and p after each changed sublayer, in the dense context.
-- grain: one row per model × lens × recipe × sublayer × layer.
-- inputs: layer_summary, reference_temperature
select
    layer_summary.model, layer_summary.recipe, layer_summary.layer, layer_summary.sublayer, layer_summary.lens,
    layer_summary.temperature, layer_summary.positions, layer_summary.cos_h_mean, layer_summary.cos_h_p10,
    layer_summary.cos_h_p90, layer_summary.cos_z_mean, layer_summary.cos_z_p10, layer_summary.cos_z_p90,
    layer_summary.cos_p_mean, layer_summary.cos_p_p10, layer_summary.cos_p_p90
from layer_summary
semi join reference_temperature using (model, recipe, temperature)
where layer_summary.is_changed and layer_summary.scope = 'local'
order by
    layer_summary.model asc, layer_summary.lens desc, layer_summary.recipe asc, layer_summary.sublayer asc,
    layer_summary.layer asc
