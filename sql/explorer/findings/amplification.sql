-- Shift of h, z and p behind one changed sublayer; the sublayers at which it grows in most variants.
-- grain: one row per model × lens.
-- inputs: layer_summary, reference_temperature
with

sublayers as (
    select
        layers.model,
        layers.lens,
        median(layers.one_minus_cos_h_mean) as one_minus_cos_h,
        median(layers.one_minus_cos_z_mean) as one_minus_cos_z,
        median(layers.one_minus_cos_p_mean) as one_minus_cos_p,
        avg(cast(layers.one_minus_cos_z_mean > layers.one_minus_cos_h_mean as integer)) > 0.5 as is_z_over_h,
        avg(cast(layers.one_minus_cos_p_mean > layers.one_minus_cos_z_mean as integer)) > 0.5 as is_p_over_z
    from layer_summary as layers
    semi join reference_temperature
        on
            layers.model = reference_temperature.model
            and layers.recipe = reference_temperature.recipe
            and layers.temperature = reference_temperature.temperature
    where layers.is_changed and layers.scope = 'local'
    group by layers.model, layers.lens, layers.layer, layers.sublayer
)

select
    model,
    lens,
    count(*) as sublayers,
    median(one_minus_cos_h) as h,
    median(one_minus_cos_z) as z,
    median(one_minus_cos_p) as p,
    count(*) filter (where is_z_over_h) as z_over_h,
    count(*) filter (where is_p_over_z) as p_over_z,
    count(*) filter (where not is_p_over_z) as p_not_over_z
from sublayers
group by model, lens
order by model asc, lens desc
