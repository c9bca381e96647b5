-- The shifts that pruning causes in h, z and p: the geometry of layer_transitions without the rows that are 0 by
-- construction.
-- grain: one row per model × recipe × prompt × position × layer × sublayer × scope × lens (reference temperature).
-- key: model, recipe, prompt_id, position, layer, sublayer, scope, lens
-- inputs: transitions_at_reference
-- how to read: h and z do not depend on T; p and the variances are those at T = 1 if it was measured. The dense recipe
--   and noise variants are excluded. So are sublayers that the recipe did not touch, because their shifts are 0 by
--   construction; scope propagated has them all.
-- reason: these zeros would pull every median of the questions about geometry towards 0.
select
    transitions.model, transitions.recipe, transitions.prompt_id, transitions.position, transitions.layer,
    transitions.sublayer, transitions.scope, transitions.lens, transitions.temperature,
    cast(transitions.par_rel_h as double) as par_rel_h,
    cast(transitions.orth_rel_h as double) as orth_rel_h,
    cast(transitions.par_rel_z as double) as par_rel_z,
    cast(transitions.orth_rel_z as double) as orth_rel_z,
    cast(transitions.par_rel_p as double) as par_rel_p,
    cast(transitions.orth_rel_p as double) as orth_rel_p,
    cast(transitions.var_uniform_dz as double) as var_uniform_dz,
    cast(transitions.var_p_dz as double) as var_p_dz,
    cast(transitions.var_r_dz as double) as var_r_dz,
    cast(transitions.var_q_dz as double) as var_q_dz,
    cast(transitions.var_rq_dz as double) as var_rq_dz,
    cast(transitions.one_minus_cos_p as double) as one_minus_cos_p,
    cast(transitions.kl_dense_pruned_nats as double) as kl_dense_pruned_nats,
    cast(transitions.kl_pruned_dense_nats as double) as kl_pruned_dense_nats
from transitions_at_reference as transitions
where transitions.recipe <> 'dense' and (transitions.is_changed or transitions.scope = 'propagated')
