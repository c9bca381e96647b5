-- By how much do the steps from h to z and from z to p amplify the shift, layer by layer?
-- grain: one row per model × recipe × layer × sublayer × scope × lens × temperature.
-- key: model, recipe, layer, sublayer, scope, lens, temperature
-- inputs: stg_layer_transitions, dense_ends, noise_variants
-- how to read: z_to_p is (1 − cos p) / (1 − cos z), h_to_z is (1 − cos z) / (1 − cos h): above 1 the step amplifies,
--   below 1 it compresses. n counts the positions whose h and z both moved; dense rows and untouched sublayers in local
--   scope have no shift and are excluded. share_amplified is the share of positions with z_to_p above 1. The rows of
--   noise variants are the null: the factors of rounding alone.
-- reason: the paper's claim is that the softmax amplifies; attention layer 0 shows that it need not.
-- columns:
--   is_noise: Whether nothing is pruned: the null of the other rows
--   n: Positions whose h and z both moved [positions]
--   h_to_z_median: Median of the step's factor; above 1 it amplifies [ratio] = (1 − cos z)/(1 − cos h)
--   h_to_z_p10: 10th percentile of the step's factor; above 1 it amplifies [ratio] = (1 − cos z)/(1 − cos h)
--   z_to_p_median: Median of the step's factor; above 1 it amplifies [ratio] = (1 − cos p)/(1 − cos z)
--   z_to_p_p10: 10th percentile of the step's factor; above 1 it amplifies [ratio] = (1 − cos p)/(1 − cos z)
--   share_amplified: Share of positions whose z_to_p is above 1 [share]
with ratios as (
    select
        transitions.model, transitions.recipe, transitions.layer, transitions.sublayer, transitions.scope,
        transitions.lens, transitions.temperature,
        noise_variants.recipe is not null as is_noise,
        cast(transitions.one_minus_cos_z as double) / transitions.one_minus_cos_h as h_to_z,
        cast(transitions.one_minus_cos_p as double) / transitions.one_minus_cos_z as z_to_p
    from stg_layer_transitions as transitions
    left join noise_variants using (model, recipe)
    left join dense_ends using (model, prompt_id)
    where
        transitions.one_minus_cos_h > 0 and transitions.one_minus_cos_z > 0
        and transitions.position <= coalesce(dense_ends.end_position, transitions.position)
),

spread as (
    select
        model, recipe, layer, sublayer, scope, lens, temperature, is_noise,
        count(*) as n,
        quantile_cont(h_to_z, [0.1, 0.5, 0.9]) as h_to_z,
        quantile_cont(z_to_p, [0.1, 0.5, 0.9]) as z_to_p,
        avg(cast(z_to_p > 1 as integer)) as share_amplified
    from ratios
    group by all
)

select
    model, recipe, layer, sublayer, scope, lens, temperature, is_noise, n,
    h_to_z[2] as h_to_z_median,
    h_to_z[1] as h_to_z_p10,
    h_to_z[3] as h_to_z_p90,
    z_to_p[2] as z_to_p_median,
    z_to_p[1] as z_to_p_p10,
    z_to_p[3] as z_to_p_p90,
    share_amplified
from spread
order by model, recipe, scope, lens, temperature, layer, sublayer
