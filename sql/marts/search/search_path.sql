-- The best allocation so far after each trial of a search, by number of trials and by time.
-- grain: one row per model × search × trial.
-- key: model, search, trial
-- inputs: stg_search_trials
-- how to read: within a strategy and target. best_nats is the measured objective of the last accepted trial, NULL
--   before the first. Each step of greedy is accepted and removes more than the one before, so that its means go up.
-- reason: says whether more time would have helped, and which moves found improvements.
-- columns:
--   place_in_strategy: Number of the trial within its strategy and target, from 1 [trials]
--   cumulative_seconds: Time of the strategy's trials for this target, up to and with this one [s]
--   best_trial: Last accepted trial; NULL before the first
--   best_nats: Measured objective of that trial [nats]
select
    model,
    search,
    strategy,
    remove,
    trial,
    move,
    exchange,
    measured_nats,
    is_accepted,
    row_number() over so_far as place_in_strategy,
    sum(seconds) over so_far as cumulative_seconds,
    max(case when is_accepted then trial end) over so_far as best_trial,
    arg_max(measured_nats, trial) filter (where is_accepted) over so_far as best_nats
from stg_search_trials
window so_far as (partition by model, search, strategy, remove order by trial)
order by model, search, strategy, remove, trial
