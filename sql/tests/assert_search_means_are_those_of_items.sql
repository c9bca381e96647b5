-- The mean of a trial is the mean over its items.
-- grain: one row per trial that disagrees.
-- inputs: stg_search_trials
-- how to read: effects weigh items equally (search_effects), so that their means are not those of their items.
-- reason: differences are paired over the lists of items, and must be about the stored means.
with

means as (
    select
        model,
        search,
        trial,
        measured_nats,
        list_avg(item_nats) as of_items
    from stg_search_trials
)

select *
from means
where not (abs(measured_nats - of_items) <= 1e-4 * abs(of_items) + 1e-7)
