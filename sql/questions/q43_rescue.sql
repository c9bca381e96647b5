-- How much of a variant's damage disappears if one sublayer is made dense again?
-- grain: one row per model × recipe × layer × sublayer that the recipe changed and that was measured in scope restored.
-- key: model, recipe, layer, sublayer
-- inputs: transitions_at_reference, stg_models
-- how to read: all KLs are at the output on the dense text, lens normed, at the reference temperature: means over the
--   prompts of each prompt's mean. kl_joint_nats is that of the whole variant. rescued_nats is the part that disappears
--   if this sublayer is dense and the others stay pruned. kl_isolated_nats is the KL if this sublayer alone is pruned.
--   interaction_nats is the difference of the two: above 0 the sublayer does more harm among other pruned sublayers
--   than alone, below 0 the others do part of its harm, too. Rescues do not add up. rescue_rank 1 rescues the most; the
--   best of many sublayers looks better than it is. Intervals are Student's t over prompts, NULL below two.
-- reason: an isolated effect says what one sublayer breaks alone; a repair needs to know what it helps while the others
--   stay broken.
-- columns:
--   rescue_rank: Place by rescued_nats among the variant's sublayers, 1 for the largest
--   n_prompts: Prompts measured layer by layer [prompts]
--   kl_joint_nats: Mean KL(dense‖pruned) of the whole variant [nats]
--   kl_restored_nats: Mean KL(dense‖pruned) of the variant with this sublayer dense [nats]
--   rescued_nats: KL that disappears with it [nats] = kl_joint_nats − kl_restored_nats
--   rescued_low: Lower end of its 95 % interval [nats]
--   rescued_share: Part of the whole variant's KL that disappears [share] = rescued_nats/kl_joint_nats
--   kl_isolated_nats: Mean KL(dense‖pruned) with this sublayer alone pruned; NULL if not measured [nats]
--   interaction_nats: Harm among the other pruned sublayers, minus harm alone [nats] = rescued_nats − kl_isolated_nats
--   tokens_back: Share of positions whose most likely token becomes that of the dense model again, minus those that
--     lose it [share]
with joint as (
    select
        transitions.model, transitions.recipe, transitions.prompt_id, transitions.position, transitions.temperature,
        transitions.kl_dense_pruned_nats as kl_joint_nats,
        transitions.is_top1_same as is_joint_same
    from transitions_at_reference as transitions
    inner join stg_models using (model)
    where
        transitions.scope = 'propagated' and transitions.lens = 'normed'
        and transitions.sublayer = 'mlp' and transitions.layer = stg_models.layers - 1
),

swapped as (
    select
        model, recipe, layer, sublayer, prompt_id, position,
        max(kl_dense_pruned_nats) filter (where scope = 'restored') as kl_restored_nats,
        bool_or(is_top1_same) filter (where scope = 'restored') as is_restored_same,
        max(kl_dense_pruned_nats) filter (where scope = 'isolated') as kl_isolated_nats
    from transitions_at_reference
    where is_changed and lens = 'normed' and scope in ('isolated', 'restored')
    group by all
    having kl_restored_nats is not null
),

prompts as (
    select
        swapped.model, swapped.recipe, swapped.layer, swapped.sublayer, swapped.prompt_id, joint.temperature,
        avg(joint.kl_joint_nats) as kl_joint_nats,
        avg(swapped.kl_restored_nats) as kl_restored_nats,
        avg(swapped.kl_isolated_nats) as kl_isolated_nats,
        avg(cast(swapped.is_restored_same as integer) - cast(joint.is_joint_same as integer)) as tokens_back
    from swapped
    inner join joint using (model, recipe, prompt_id, position)
    group by all
),

sublayers as (
    select
        model, recipe, layer, sublayer, temperature,
        count(*) as n_prompts,
        avg(kl_joint_nats) as kl_joint_nats,
        avg(kl_restored_nats) as kl_restored_nats,
        mean_over_units(kl_joint_nats - kl_restored_nats) as rescued,
        avg(kl_isolated_nats) as kl_isolated_nats,
        avg(tokens_back) as tokens_back
    from prompts
    group by all
)

select
    sublayers.model, sublayers.recipe, sublayers.layer, sublayers.sublayer, sublayers.temperature,
    row_number() over (
        partition by sublayers.model, sublayers.recipe
        order by sublayers.rescued.mean desc, sublayers.layer asc, sublayers.sublayer asc
    ) as rescue_rank,
    sublayers.n_prompts, sublayers.kl_joint_nats, sublayers.kl_restored_nats,
    sublayers.rescued.mean as rescued_nats,
    sublayers.rescued.mean - sublayers.rescued.half_width as rescued_low,
    sublayers.rescued.mean + sublayers.rescued.half_width as rescued_high,
    sublayers.rescued.mean / nullif(sublayers.kl_joint_nats, 0) as rescued_share,
    sublayers.kl_isolated_nats,
    sublayers.rescued.mean - sublayers.kl_isolated_nats as interaction_nats,
    sublayers.tokens_back
from sublayers
order by sublayers.model, sublayers.recipe, rescue_rank
