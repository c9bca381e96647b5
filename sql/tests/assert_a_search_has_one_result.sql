-- A search returns at most one allocation for a strategy and target.
-- grain: one row per model × search × strategy × target with several results.
-- inputs: stg_search_trials
-- reason: search_front and the figures take the result of each strategy and target as one row.
select
    model, search, strategy, remove,
    count(*) as results
from stg_search_trials
where is_result
group by all
having count(*) > 1
