-- How far rounding alone moves the stream after each sublayer: smaller shifts are not evidence about pruning.
-- grain: one row per model × layer × sublayer × scope × lens × temperature.
-- key: model, layer, sublayer, scope, lens, temperature
-- inputs: stg_layer_transitions, noise_variants, dense_ends
-- how to read: the dense model is compared with itself in bfloat16 and with another order of summation: run whole on
--   the same tokens (scope propagated), or in one sublayer alone (local, and isolated at the output). p95 and max are
--   over prompts and positions, and then the largest over noise variants. There are no rows if the study measured no
--   noise, and none of scopes local and isolated from releases that stored zeros there.
-- reason: a divergence is a finding only if it is larger than what another dtype or batch size causes with the same
--   weights.
-- columns:
--   noise_variants: Noise variants of which the floor is the largest value [variants]
--   positions: Positions of the noise variant with the fewest [positions]
--   kl_p95_nats: 95th percentile of KL(dense‖noise) [nats]
--   kl_max_nats: Largest of KL(dense‖noise) [nats]
--   one_minus_cos_h_p95: 95th percentile of the cosine defect of h [1 - cosine]
--   one_minus_cos_h_max: Largest of the cosine defect of h [1 - cosine]
--   one_minus_cos_z_p95: 95th percentile of the cosine defect of z [1 - cosine]
--   one_minus_cos_z_max: Largest of the cosine defect of z [1 - cosine]
--   one_minus_cos_p_p95: 95th percentile of the cosine defect of p [1 - cosine]
--   one_minus_cos_p_max: Largest of the cosine defect of p [1 - cosine]
--   total_variation_p95: 95th percentile of the total variation distance [probability]
--   total_variation_max: Largest of the total variation distance [probability]
with spread as (
    select
        transitions.model, transitions.recipe, transitions.layer, transitions.sublayer, transitions.scope,
        transitions.lens, transitions.temperature,
        count(*) as positions,
        quantile_cont(transitions.kl_dense_pruned_nats, 0.95) as kl_p95_nats,
        max(transitions.kl_dense_pruned_nats) as kl_max_nats,
        quantile_cont(transitions.one_minus_cos_h, 0.95) as one_minus_cos_h_p95,
        max(transitions.one_minus_cos_h) as one_minus_cos_h_max,
        quantile_cont(transitions.one_minus_cos_z, 0.95) as one_minus_cos_z_p95,
        max(transitions.one_minus_cos_z) as one_minus_cos_z_max,
        quantile_cont(transitions.one_minus_cos_p, 0.95) as one_minus_cos_p_p95,
        max(transitions.one_minus_cos_p) as one_minus_cos_p_max,
        quantile_cont(transitions.total_variation, 0.95) as total_variation_p95,
        max(transitions.total_variation) as total_variation_max
    from stg_layer_transitions as transitions
    inner join noise_variants using (model, recipe)
    left join dense_ends using (model, prompt_id)
    where
        (transitions.scope = 'propagated' or transitions.is_changed)
        and transitions.position <= coalesce(dense_ends.end_position, transitions.position)
    group by all
)

select
    model, layer, sublayer, scope, lens, temperature,
    count(*) as noise_variants,
    min(positions) as positions,
    max(kl_p95_nats) as kl_p95_nats,
    max(kl_max_nats) as kl_max_nats,
    max(one_minus_cos_h_p95) as one_minus_cos_h_p95,
    max(one_minus_cos_h_max) as one_minus_cos_h_max,
    max(one_minus_cos_z_p95) as one_minus_cos_z_p95,
    max(one_minus_cos_z_max) as one_minus_cos_z_max,
    max(one_minus_cos_p_p95) as one_minus_cos_p_p95,
    max(one_minus_cos_p_max) as one_minus_cos_p_max,
    max(total_variation_p95) as total_variation_p95,
    max(total_variation_max) as total_variation_max
from spread
group by all
