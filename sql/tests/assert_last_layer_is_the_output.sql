-- After the last layer's MLP, through the final norm, the propagated shift is the shift of the output.
-- grain: one row per model × recipe × prompt × step × temperature that disagrees.
-- inputs: stg_layer_transitions, stg_decoding_steps, stg_models
-- reason: two code paths measure the same quantity; if they differ, one of them is wrong.
with compared as (
    select
        transitions.model, transitions.recipe, transitions.prompt_id, outputs.step, transitions.temperature,
        transitions.kl_dense_pruned_nats as kl_at_last_layer_nats,
        outputs.kl_dense_pruned_nats as kl_at_output_nats,
        transitions.var_p_dz as var_p_dz_at_last_layer,
        outputs.var_p_dz as var_p_dz_at_output
    from stg_layer_transitions as transitions
    inner join stg_decoding_steps as outputs using (model, recipe, prompt_id, position, temperature)
    inner join stg_models as models using (model)
    where
        transitions.scope = 'propagated' and transitions.lens = 'normed'
        and transitions.sublayer = 'mlp' and transitions.layer = models.layers - 1
        and outputs.trajectory = 'teacher_forced'
)

select *
from compared
where
    -- Float32 passes of other shapes; a wrong position or lens is off by far more.
    abs(kl_at_last_layer_nats - kl_at_output_nats) > 1e-3 * kl_at_output_nats + 1e-6
    or abs(var_p_dz_at_last_layer - var_p_dz_at_output) > 1e-3 * var_p_dz_at_output + 1e-6
