-- Shift of h, z and p behind one changed sublayer.
-- grain: one row per model × lens.
-- inputs: layer_summary, reference_temperature
select
    layer_summary.model,
    layer_summary.lens,
    count(*) as sublayers,
    median(layer_summary.one_minus_cos_h_mean) as h,
    median(layer_summary.one_minus_cos_z_mean) as z,
    median(layer_summary.one_minus_cos_p_mean) as p,
    count(*) filter (where layer_summary.one_minus_cos_z_mean > layer_summary.one_minus_cos_h_mean) as z_over_h,
    count(*) filter (where layer_summary.one_minus_cos_p_mean > layer_summary.one_minus_cos_z_mean) as p_over_z,
    count(*)
    - count(*) filter (where layer_summary.one_minus_cos_p_mean > layer_summary.one_minus_cos_z_mean) as p_not_over_z
from layer_summary
semi join reference_temperature
    on
        layer_summary.model = reference_temperature.model
        and layer_summary.recipe = reference_temperature.recipe
        and layer_summary.temperature = reference_temperature.temperature
where layer_summary.is_changed and layer_summary.scope = 'local'
group by layer_summary.model, layer_summary.lens
order by layer_summary.model asc, layer_summary.lens desc
