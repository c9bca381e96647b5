-- columns:
--   n_treated: Sublayers that are not kept [sublayers] = number of keys of treatments_json
select cast(len(json_keys(try_cast(treatments_json as json))) as integer) as n_treated
from search_trials
