-- Nothing runs on top of the last MLP, so swapping it alone moves the output by its local shift.
-- grain: one row per model × recipe × prompt × position × lens × temperature that disagrees.
-- inputs: stg_layer_transitions, stg_models
-- reason: the two scopes come from different code: a replay and a run of the dense rest.
with top as (
    select
        transitions.model, transitions.recipe, transitions.prompt_id,
        transitions.position as place,
        transitions.scope, transitions.lens, transitions.temperature, transitions.norm_dh,
        transitions.kl_dense_pruned_nats
    from stg_layer_transitions as transitions
    inner join stg_models as models using (model)
    where
        transitions.layer = models.layers - 1 and transitions.sublayer = 'mlp'
        and transitions.scope in ('local', 'isolated')
)

select
    locals.model, locals.recipe, locals.prompt_id, locals.place, locals.lens, locals.temperature,
    locals.kl_dense_pruned_nats as kl_local_nats,
    isolated.kl_dense_pruned_nats as kl_isolated_nats
from top as locals
inner join top as isolated using (model, recipe, prompt_id, place, lens, temperature)
where
    locals.scope = 'local' and isolated.scope = 'isolated'
    and (
        abs(locals.norm_dh - isolated.norm_dh) > 1e-3 * locals.norm_dh + 1e-6
        or abs(locals.kl_dense_pruned_nats - isolated.kl_dense_pruned_nats)
        > 1e-2 * locals.kl_dense_pruned_nats + 1e-6
    )
