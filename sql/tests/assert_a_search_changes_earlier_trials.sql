-- The parent of a trial is an earlier trial of the same search.
-- grain: one row per trial without its parent.
-- inputs: stg_search_trials
-- reason: from every trial, the parents lead back to one without a parent.
select trials.model, trials.search, trials.trial, trials.parent
from stg_search_trials as trials
left join stg_search_trials as parents
    on
        trials.model = parents.model and trials.search = parents.search and trials.parent = parents.trial
        and trials.trial > parents.trial
where trials.parent is not null and parents.trial is null
