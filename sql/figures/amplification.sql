-- 1 − cos between dense and pruned in h, z and p behind each changed sublayer, in the dense context.
-- grain: one row per model × lens × recipe × sublayer × layer.
-- inputs: layer_summary, reference_temperature
select
    layer_summary.model,
    layer_summary.recipe,
    layer_summary.layer,
    layer_summary.sublayer,
    layer_summary.lens,
    layer_summary.temperature,
    layer_summary.positions,
    layer_summary.one_minus_cos_h_mean,
    layer_summary.one_minus_cos_z_mean,
    layer_summary.one_minus_cos_p_mean
from layer_summary
semi join reference_temperature
    on
        layer_summary.model = reference_temperature.model
        and layer_summary.recipe = reference_temperature.recipe
        and layer_summary.temperature = reference_temperature.temperature
where layer_summary.is_changed and layer_summary.scope = 'local'
order by
    layer_summary.model asc,
    layer_summary.lens desc,
    layer_summary.recipe asc,
    layer_summary.sublayer asc,
    layer_summary.layer asc
