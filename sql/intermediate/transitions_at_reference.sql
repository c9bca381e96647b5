-- The records of layer_transitions at the reference temperature, up to the end of the dense text.
-- grain: one row per variant × prompt × position × layer × sublayer × scope × lens, noise left out.
-- key: model, recipe, prompt_id, position, layer, sublayer, scope, lens
-- inputs: stg_layer_transitions, reference_temperature, dense_ends
-- how to read: the columns of stg_layer_transitions that other views read. The dense recipe is included.
-- reason: summaries of layers must not mix temperatures; h and z do not depend on the temperature.
select
    transitions.model, transitions.recipe, transitions.prompt_id, transitions.position, transitions.step,
    transitions.layer, transitions.sublayer, transitions.scope, transitions.lens, transitions.temperature,
    transitions.is_changed, transitions.one_minus_cos_h, transitions.par_rel_h, transitions.orth_rel_h,
    transitions.par_rel_z, transitions.orth_rel_z, transitions.one_minus_cos_z, transitions.one_minus_cos_p,
    transitions.t2_p, transitions.par_rel_p, transitions.orth_rel_p, transitions.var_uniform_dz, transitions.var_r_dz,
    transitions.var_p_dz, transitions.t3_kl_nats, transitions.var_rq_dz, transitions.var_q_dz,
    transitions.kl_dense_pruned_nats, transitions.kl_pruned_dense_nats, transitions.is_top1_same
from stg_layer_transitions as transitions
inner join reference_temperature using (model, recipe, temperature)
left join dense_ends using (model, prompt_id)
where transitions.position <= coalesce(dense_ends.end_position, transitions.position)
