-- The mean of an effect and of a trial is the mean of its items.
-- grain: one row per effect or trial that disagrees.
-- inputs: stg_search_effects, stg_search_trials
-- reason: differences are paired over the lists of items, and must be about the stored means.
with

means as (
    select
        'search_effects' as table_name,
        model,
        search,
        place || ' ' || treatment as what,
        kl_dense_pruned_nats as mean_nats,
        list_avg(item_kl) as of_items
    from stg_search_effects

    union all

    select
        'search_trials' as table_name,
        model,
        search,
        cast(trial as varchar) as what,
        measured_nats as mean_nats,
        list_avg(item_nats) as of_items
    from stg_search_trials
)

select *
from means
where not (abs(mean_nats - of_items) <= 1e-4 * abs(of_items) + 1e-7)
