-- Shift of h, z and p after every sublayer, step by step up to the end of the dense text.
-- grain: one row per pruned variant × prompt × scope × layer × sublayer × step.
-- inputs: transitions_at_reference, reference_lens
select
    transitions.model, transitions.recipe, transitions.prompt_id, transitions.scope, transitions.layer,
    transitions.sublayer, transitions.step, transitions.is_changed, transitions.one_minus_cos_h,
    transitions.one_minus_cos_z, transitions.one_minus_cos_p, transitions.kl_dense_pruned_nats, transitions.is_top1_same
from transitions_at_reference as transitions
semi join reference_lens using (model, lens)
where transitions.recipe <> 'dense' and transitions.step is not null
order by
    transitions.model, transitions.recipe, transitions.prompt_id, transitions.scope, transitions.layer,
    transitions.sublayer, transitions.step
