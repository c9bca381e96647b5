-- The share of weights that each matrix loses in each result of a search.
-- grain: one row per model × search × strategy × target × sublayer × matrix.
-- key: model, search, strategy, remove, layer, sublayer, matrix
-- inputs: search_allocation, stg_search_effects, stg_activation_stats
-- how to read: only searches that split a treatment among the matrices of a sublayer have rows. In a sublayer with a
--   drop, quantization, an N:M pattern or no treatment, every matrix has the share of its sublayer. Matrices of experts
--   with the same name count as one.
-- reason: shows what a search does inside the sublayers: which kinds of matrices lose most.
-- columns:
--   treatment: Treatment of the sublayer; keep if it has none [label]
--   weights: Weights of the matrix [weights]
--   removed_share: Share of them that is removed [share] = parameters_removed/weights
--   effect_nats: KL divergence with this matrix alone treated; NULL if not measured for this matrix [nats]
with matrices as (
    select distinct model, search, layer, sublayer, place, matrix
    from stg_search_effects
    where matrix <> 'all'
),

sizes as (
    select
        model, layer, sublayer,
        regexp_extract(module, '([^.\[]+)(\[\d+\])?$', 1) as matrix,
        sum(cast(in_features as double) * out_features) as weights
    from stg_activation_stats
    group by all
)

select
    allocation.model, allocation.search, allocation.strategy, allocation.remove, allocation.layer, allocation.sublayer,
    matrices.matrix, allocation.treatment, sizes.weights,
    coalesce(
        within_0_and_1(effects.parameters_removed / sizes.weights),
        allocation.removed_share
    ) as removed_share,
    effects.kl_dense_pruned_nats as effect_nats
from search_allocation as allocation
inner join matrices using (model, search, layer, sublayer)
left join sizes using (model, layer, sublayer, matrix)
left join stg_search_effects as effects using (model, search, place, matrix, treatment)
order by
    allocation.model, allocation.search, allocation.strategy, allocation.remove, allocation.layer, allocation.sublayer,
    matrices.matrix
