-- The mean of a trial is the mean over its items, and the effect of a treatment that was measured on every item of its
-- search is the geometric mean over these.
-- grain: one row per effect or trial that disagrees.
-- inputs: stg_search_effects, stg_search_trials
-- how to read: an effect that was measured on fewer items is the mean of another treatment of its sublayer, times the
--   ratio of the two. An effect without items is computed from other effects. Neither is a mean over its own items.
-- reason: differences are paired over the lists of items, and must be about the stored means.
with complete_effects as (
    select
        model, search,
        concat_ws(' ', place, matrix, treatment) as what,
        kl_dense_pruned_nats as mean_nats,
        typical_of(item_kl) as of_items
    from stg_search_effects
    qualify n_items = max(n_items) over (partition by model, search)
),

means as (
    select
        'search_effects' as table_name,
        *
    from complete_effects

    union all

    select
        'search_trials' as table_name,
        model, search,
        cast(trial as varchar) as what,
        measured_nats as mean_nats,
        list_avg(item_nats) as of_items
    from stg_search_trials
)

select *
from means
where not (abs(mean_nats - of_items) <= 1e-4 * abs(of_items) + 1e-7)
