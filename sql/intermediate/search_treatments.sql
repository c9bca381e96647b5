-- The allocations of a search as rows: each treated sublayer of each trial with its treatment and the effect of that
-- treatment alone.
-- grain: one row per model × search × trial × treated sublayer.
-- key: model, search, trial, place
-- inputs: stg_search_trials, stg_search_effects
-- how to read: an effect is measured or, if n_items is 0, computed from those of the sublayer's matrices. It is NULL if
--   the search has none for this treatment. Kept sublayers have no row.
-- reason: the allocations' JSON is read here alone, for search_allocation and search_interaction.
-- columns:
--   place: Sublayer, such as attn.3 [label]
--   effect_nats: KL divergence with this treatment alone [nats]
--   n_items: Items that the effect was measured on; 0 if it is computed [items]
with places as (
    select
        model, search, trial,
        try_cast(treatments_json as json) as treatments,
        unnest(json_keys(try_cast(treatments_json as json))) as place
    from stg_search_trials
),

treated as (
    select
        *,
        json_extract_string(treatments, '$."' || place || '"') as treatment,
        'all' as matrix
    from places
)

select
    treated.model, treated.search, treated.trial, treated.place, treated.treatment, effects.parameters_removed,
    effects.kl_dense_pruned_nats as effect_nats,
    effects.n_items
from treated
left join stg_search_effects as effects using (model, search, place, treatment, matrix)
