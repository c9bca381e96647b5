-- The KL of each changed sublayer: predicted from the local shift, alone at the output, and relative to the joint KL.
-- grain: one row per model × recipe × layer × sublayer that the recipe changed and that was measured in scope isolated.
-- key: model, recipe, layer, sublayer
-- inputs: transitions_at_reference, stg_models
-- how to read: medians over prompts and positions at the reference temperature, lens normed. t3_local_nats is what
--   Theorem 3 predicts from the local shift. kl_isolated_nats is the KL at the output when only this sublayer is pruned
--   and the dense rest runs on top. kl_joint_nats is the KL at the output when all are pruned (scope propagated, after
--   the last MLP, the same for every sublayer of a variant). isolated_over_local above 1 means that the layers above
--   amplify the shift. isolated_share is kl_isolated_nats over kl_joint_nats. NULL if a scope was not measured. Noise
--   variants change no sublayer and are excluded.
-- reason: local estimate, isolated effect and joint effect answer three different questions that are easily confused.
-- columns:
--   positions: Positions in scope isolated, all prompts together [positions]
--   t3_local_nats: Median prediction of Theorem 3 from the local shift [nats] = median Var_p(Δz)/(2T²)
--   kl_local_nats: Median KL(dense‖pruned) after this sublayer, scope local [nats]
--   kl_isolated_nats: Median KL(dense‖pruned) at the output with this sublayer alone pruned [nats]
--   kl_joint_nats: Median KL(dense‖pruned) at the output with all of them pruned [nats]
--   isolated_over_local: Effect of the layers above; above 1 they amplify the shift [ratio] =
--     kl_isolated_nats/kl_local_nats
--   isolated_share: This sublayer's KL alone as a part of the joint KL [ratio] = kl_isolated_nats/kl_joint_nats
with alone as (
    select
        transitions.model, transitions.recipe, transitions.layer, transitions.sublayer,
        any_value(transitions.temperature) as temperature,
        count(*) filter (where transitions.scope = 'isolated') as positions,
        median(transitions.t3_kl_nats) filter (where transitions.scope = 'local') as t3_local_nats,
        median(transitions.kl_dense_pruned_nats) filter (where transitions.scope = 'local') as kl_local_nats,
        median(transitions.kl_dense_pruned_nats) filter (where transitions.scope = 'isolated') as kl_isolated_nats
    from transitions_at_reference as transitions
    where transitions.is_changed and transitions.lens = 'normed' and transitions.scope in ('local', 'isolated')
    group by all
),

joint as (
    select
        transitions.model, transitions.recipe,
        median(transitions.kl_dense_pruned_nats) as kl_joint_nats
    from transitions_at_reference as transitions
    inner join stg_models as models using (model)
    where
        transitions.scope = 'propagated' and transitions.lens = 'normed'
        and transitions.sublayer = 'mlp' and transitions.layer = models.layers - 1
    group by all
)

select
    alone.model, alone.recipe, alone.layer, alone.sublayer, alone.temperature, alone.positions, alone.t3_local_nats,
    alone.kl_local_nats, alone.kl_isolated_nats, joint.kl_joint_nats,
    alone.kl_isolated_nats / nullif(alone.kl_local_nats, 0) as isolated_over_local,
    alone.kl_isolated_nats / nullif(joint.kl_joint_nats, 0) as isolated_share
from alone
left join joint using (model, recipe)
where alone.positions > 0
