-- The treatment of every sublayer, including kept ones, in each result of a search, with the effect of the treatment
-- alone.
-- grain: one row per model × search × strategy × target × sublayer.
-- key: model, search, strategy, remove, layer, sublayer
-- inputs: search_front, search_treatments, stg_search_effects, stg_activation_stats
-- how to read: keep means no treatment, and its effect is 0 by definition. For an effect alone, every other sublayer is
--   dense; search_interaction says how far effects add up. The sublayers are those with effects in search_effects.
--   removed_share is NULL if the sizes of the model's matrices are not known.
-- reason: shows what a search does to a model, layer by layer.
-- columns:
--   treatment: Treatment of the sublayer; keep if it has none [label]
--   parameters_removed: Weights that the treatment removes [weights]
--   removed_share: Share of the sublayer's weights that it removes [share] = parameters_removed/weights of the sublayer
--   effect_nats: KL divergence with this treatment alone, measured or computed; NULL if neither [nats]
with sublayers as (
    select distinct model, search, layer, sublayer, place
    from stg_search_effects
),

sizes as (
    select
        model, layer, sublayer,
        sum(cast(in_features as double) * out_features) as weights
    from stg_activation_stats
    group by all
)

select
    front.model, front.search, front.strategy, front.remove, sublayers.layer, sublayers.sublayer,
    coalesce(treatments.treatment, 'keep') as treatment,
    case when treatments.place is null then 0 else treatments.parameters_removed end as parameters_removed,
    -- A drop also removes biases, which are not weights of matrices.
    within_0_and_1(
        case when treatments.place is null then 0 else treatments.parameters_removed end / sizes.weights
    ) as removed_share,
    case when treatments.place is null then 0 else treatments.effect_nats end as effect_nats
from search_front as front
inner join sublayers using (model, search)
left join search_treatments as treatments using (model, search, trial, place)
left join sizes using (model, layer, sublayer)
order by front.model, front.search, front.strategy, front.remove, sublayers.layer, sublayers.sublayer
