-- The trials of a search in their order, each with the current best allocation of its strategy and target.
-- grain: one row per model × search × trial.
-- key: model, search, trial
-- inputs: stg_search_trials
-- how to read: the current best is the last accepted trial of the strategy and target, this one included. Trials are
--   accepted by geometric means, and those of hidden by 1 − cos h, so best_nats, a mean, may go up. It also goes up
--   under greedy, which accepts every trial and removes more in each. Plot best_nats against place_in_strategy or
--   cumulative_seconds.
-- reason: says whether more time would have helped, and which moves brought improvements.
-- columns:
--   place_in_strategy: Number of the trial within its strategy and target, from 1 [trials]
--   cumulative_seconds: Time of the trials of the strategy and target up to and including this one [s]
--   best_trial: Last accepted trial; NULL before the first
--   best_nats: Measured objective of that trial [nats]
select
    model, search, strategy, remove, trial, move, exchange, measured_nats, is_accepted,
    row_number() over so_far as place_in_strategy,
    sum(seconds) over so_far as cumulative_seconds,
    max(case when is_accepted then trial end) over so_far as best_trial,
    arg_max(measured_nats, trial) filter (where is_accepted) over so_far as best_nats
from stg_search_trials
window so_far as (partition by model, search, strategy, remove order by trial)
order by model, search, strategy, remove, trial
