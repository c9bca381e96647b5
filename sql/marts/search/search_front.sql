-- The allocation that each search returns for each strategy and target, as predicted and as measured.
-- grain: one row per model × search × strategy × target with a result.
-- key: model, search, strategy, remove
-- inputs: stg_search_trials
-- how to read: objectives are measured on the search's own items, by which the allocation was chosen; search_judgement
--   compares its recipe on the study's own data. n_trials and seconds count all trials of the strategy and target; the
--   seconds of measuring effects alone, which strategies share, are in search_effects. Compare measured_nats within one
--   search only.
-- reason: the results of a search in one place.
-- columns:
--   share_to_match: Share at which published recipes are compared with it: the target, or what the allocation removes
--     if a recipe at the target would not count as the same budget (search_judgement) [share]
--   n_trials: Trials of the strategy for this target [trials]
--   seconds: Time of these trials [s]
with totals as (
    select
        model, search, strategy, remove,
        count(*) as n_trials,
        sum(seconds) as seconds
    from stg_search_trials
    group by all
)

select
    results.model, results.search, results.strategy, results.remove, results.objective, results.budget, results.trial,
    results.recipe, results.treatments_json, results.recipe_treatments_json, results.removed,
    if(results.removed > results.remove + budget_slack(), results.removed, results.remove) as share_to_match,
    results.n_treated, results.predicted_nats, results.measured_nats, results.measured_low, results.measured_high,
    results.n_items, totals.n_trials, totals.seconds
from stg_search_trials as results
inner join totals using (model, search, strategy, remove)
where results.is_result
order by results.model, results.search, results.strategy, results.remove
