-- Shift of h, z and p behind every sublayer, step by step up to the end of the dense text.
-- grain: one row per pruned variant × prompt × scope × layer × sublayer × step.
-- inputs: stg_layer_transitions, reference_temperature, reference_lens, dense_ends
select
    transitions.model,
    transitions.recipe,
    transitions.prompt_id,
    transitions.scope,
    transitions.layer,
    transitions.sublayer,
    transitions.step,
    transitions.is_changed,
    transitions.one_minus_cos_h,
    transitions.one_minus_cos_z,
    transitions.one_minus_cos_p,
    transitions.kl_dense_pruned_nats,
    transitions.is_top1_same
from stg_layer_transitions as transitions
semi join reference_temperature
    on
        transitions.model = reference_temperature.model
        and transitions.recipe = reference_temperature.recipe
        and transitions.temperature = reference_temperature.temperature
semi join reference_lens
    on transitions.model = reference_lens.model and transitions.lens = reference_lens.lens
anti join dense_ends
    on
        transitions.model = dense_ends.model
        and transitions.prompt_id = dense_ends.prompt_id
        and transitions.step > dense_ends.end_step
where transitions.recipe <> 'dense' and transitions.step is not null
order by
    transitions.model,
    transitions.recipe,
    transitions.prompt_id,
    transitions.scope,
    transitions.layer,
    transitions.sublayer,
    transitions.step
