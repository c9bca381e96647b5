-- The records after one changed sublayer in the dense context, for the variants of the claims and for their null.
-- grain: one row per variant of claim_variants × prompt × position × layer × sublayer × lens.
-- key: model, recipe, prompt_id, position, layer, sublayer, lens
-- inputs: stg_layer_transitions, variant_temperatures, claim_variants, dense_ends
-- how to read: scope local at the reference temperature, up to the end of the dense text. Rows with is_noise are the
--   null, the dense model with one sublayer computed in another way; older warehouses hold zeros there.
-- reason: statements about local shifts compare pruning with rounding on the same rows.
select
    transitions.model, transitions.recipe, transitions.prompt_id, transitions.position, transitions.layer,
    transitions.sublayer, transitions.lens, variants.is_noise, variants.is_rounding, transitions.one_minus_cos_h,
    transitions.one_minus_cos_z, transitions.one_minus_cos_p, transitions.kl_dense_pruned_nats, transitions.t1_h,
    transitions.t1_z, transitions.t2_p, transitions.t3_kl_nats
from stg_layer_transitions as transitions
inner join variant_temperatures using (model, recipe, temperature)
inner join claim_variants as variants using (model, recipe)
left join dense_ends using (model, prompt_id)
where
    transitions.scope = 'local'
    and (transitions.is_changed or variants.is_noise)
    and transitions.position <= coalesce(dense_ends.end_position, transitions.position)
