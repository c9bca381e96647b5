-- The records of layer_transitions up to the end of the dense text, without those of noise variants.
-- grain: one row per variant × prompt × position × layer × sublayer × scope × lens × temperature, noise left out.
-- key: model, recipe, prompt_id, position, layer, sublayer, scope, lens, temperature
-- inputs: stg_layer_transitions, noise_variants, dense_ends
-- how to read: the columns of stg_layer_transitions that other views read. The dense recipe is included.
-- reason: single place that excludes noise from the layer records at every temperature.
select
    transitions.model, transitions.recipe, transitions.prompt_id, transitions.position, transitions.layer,
    transitions.sublayer, transitions.scope, transitions.lens, transitions.temperature, transitions.is_changed,
    transitions.one_minus_cos_h, transitions.orth_rel_h, transitions.t1_h, transitions.one_minus_cos_z,
    transitions.t1_z, transitions.one_minus_cos_p, transitions.t2_p, transitions.var_p_dz, transitions.t3_kl_nats,
    transitions.kl_dense_pruned_nats, transitions.kl_pruned_dense_nats
from stg_layer_transitions as transitions
anti join noise_variants using (model, recipe)
left join dense_ends using (model, prompt_id)
where transitions.position <= coalesce(dense_ends.end_position, transitions.position)
