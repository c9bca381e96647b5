-- How much of a variant's KL each changed sublayer causes, and after which sublayer its texts first differ.
-- grain: one row per model × recipe × changed sublayer.
-- key: model, recipe, layer, sublayer
-- inputs: layer_summary, reference_temperature, first_divergent_layer
-- how to read: kl_alone_nats is the mean KL that this sublayer alone causes at the reference temperature, lens normed:
--   at the model's output if scope isolated was measured for all changed sublayers, else directly after the sublayer
--   (scope local). share_of_kl is its part of the sum over the variant's changed sublayers; place_in_order 1 is the
--   largest. Effects of sublayers do not add up to the joint effect, so a share says where the damage arises, not how
--   much sparing the sublayer would save. prompts_parted counts prompts at the first flip of the whole pruned model:
--   those whose most likely token differs from this sublayer up to the output. A sublayer that the recipe did not
--   change can be the first, too, but has no row here. Noise variants are excluded.
-- reason: sparing the sublayers with the largest effect makes pruning milder, so they are ranked.
-- columns:
--   layer: Layer of the sublayer, from 0
--   sublayer: attn or mlp [label]
--   scope: isolated or local, where the KL was measured [label]
--   kl_alone_nats: Mean KL(dense‖pruned) that this sublayer causes alone [nats]
--   share_of_kl: Its part of the sum over the variant's changed sublayers [share]
--   place_in_order: Its rank by share_of_kl, 1 for the largest; ties by depth [rank]
--   prompts_parted: Prompts whose most likely token differs from here up to the output, at the first flip [prompts]
with alone as (
    select
        layers.model, layers.recipe, layers.layer, layers.sublayer,
        max(layers.kl_mean_nats) filter (where layers.scope = 'local') as kl_local_nats,
        max(layers.kl_mean_nats) filter (where layers.scope = 'isolated') as kl_isolated_nats
    from layer_summary as layers
    semi join reference_temperature using (model, recipe, temperature)
    where layers.is_changed and layers.lens = 'normed' and layers.scope in ('local', 'isolated')
    group by all
),

-- KLs after a sublayer and KLs at the output cannot be added, so each variant uses one scope.
measured as (
    select
        *,
        case
            when count(kl_isolated_nats) over (partition by model, recipe) = count(*) over (partition by model, recipe)
                then 'isolated'
            else 'local'
        end as scope,
        case scope when 'isolated' then kl_isolated_nats else kl_local_nats end as kl_alone_nats
    from alone
),

first_differences as (
    select
        model, recipe,
        from_layer as layer,
        from_sublayer as sublayer,
        count(*) as prompts_parted
    from first_divergent_layer
    where from_layer is not null
    group by all
)

select
    measured.model, measured.recipe, measured.layer, measured.sublayer, measured.scope, measured.kl_alone_nats,
    measured.kl_alone_nats
    / nullif(sum(measured.kl_alone_nats) over (partition by measured.model, measured.recipe), 0) as share_of_kl,
    row_number() over (
        partition by measured.model, measured.recipe
        order by measured.kl_alone_nats desc nulls last, measured.layer asc, measured.sublayer asc
    ) as place_in_order,
    coalesce(first_differences.prompts_parted, 0) as prompts_parted
from measured
left join first_differences using (model, recipe, layer, sublayer)
