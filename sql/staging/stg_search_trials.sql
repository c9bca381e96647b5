-- The table search_trials as other views read it: every column by name, and columns computed from a single row.
-- grain: one row per model × search × trial.
-- key: model, search, trial
-- inputs: search_trials
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
-- columns:
--   n_treated: Sublayers that are not kept [sublayers] = number of keys of treatments_json
select
    model,
    search,
    trial,
    parent,
    strategy,
    move,
    objective,
    budget,
    remove,
    removed,
    treatments_json,
    exchange,
    predicted_nats,
    measured_nats,
    measured_low,
    measured_high,
    difference_nats,
    difference_low,
    difference_high,
    n_items,
    item_ids,
    item_nats,
    is_accepted,
    is_result,
    recipe,
    recipe_treatments_json,
    seconds,
    cast(len(json_keys(try_cast(treatments_json as json))) as integer) as n_treated
from search_trials
