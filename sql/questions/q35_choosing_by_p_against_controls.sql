-- Does choosing by KL at the output beat choosing by hidden states, at random, or step by step?
-- grain: one row per model × search × target × control with a result, and one of searched.
-- key: model, search, remove, control
-- inputs: search_front, stg_search_trials
-- how to read: the difference is the measured objective of searched minus that of the control, paired over their common
--   items: below 0 choosing by KL at the output does less damage. hidden is the same search by 1 − cos of the final
--   hidden states, with the method that the KL chose; random takes the best of n_trials_control allocations; greedy
--   removes a little more in each trial, by the smallest effects alone. All are measured on the items by which the
--   result of searched was chosen, which favours searched a little; search_judgement compares recipes on the study's
--   own data. The interval is Student's t over items; NULL below two items or if none deviates.
-- reason: says whether KL at the output chooses better than the hidden states, and better than chance.
-- columns:
--   control: Strategy of the other result: hidden, random or greedy [label]
--   removed_control: Share that it removes [share]
--   searched_nats: Objective of the result of searched over the common items [nats]
--   control_nats: Objective of the result of the control over the common items [nats]
--   difference_nats: Searched minus control [nats] = searched_nats − control_nats
--   difference_low: Lower end of its 95 % interval, paired over items [nats]
--   n_items: Items on which both were measured [items]
--   n_trials: Trials of searched for this target [trials]
--   n_trials_control: Trials of the control for this target [trials]
--   verdict: beats the control, loses to the control, no difference shown, or not known without an interval [label]
with items as (
    select
        front.model, front.search, front.strategy, front.remove,
        unnest(trials.item_ids) as item,
        cast(unnest(trials.item_nats) as double) as nats
    from search_front as front
    inner join stg_search_trials as trials using (model, search, trial)
),

paired as (
    select
        own.*,
        control.strategy as control,
        control.nats as control_nats
    from items as own
    inner join items as control using (model, search, remove, item)
    where own.strategy = 'searched' and control.strategy <> 'searched'
),

compared as (
    select
        model, search, remove, control,
        avg(nats) as searched_nats,
        avg(control_nats) as control_nats,
        avg(nats - control_nats) as difference_nats,
        half_width_of_mean(nats - control_nats, 1) as half_width,
        count(*) as n_items
    from paired
    group by all
)

select
    compared.model, compared.search, compared.remove, compared.control, own.objective, own.budget, own.removed,
    control.removed as removed_control,
    compared.searched_nats, compared.control_nats, compared.difference_nats,
    compared.difference_nats - compared.half_width as difference_low,
    compared.difference_nats + compared.half_width as difference_high,
    compared.n_items, own.n_trials,
    control.n_trials as n_trials_control,
    comparison_verdict(
        compared.half_width,
        case when abs(compared.difference_nats) > compared.half_width then compared.difference_nats < 0 end,
        'the control'
    ) as verdict
from compared
inner join search_front as own using (model, search, remove)
inner join search_front as control using (model, search, remove)
where own.strategy = 'searched' and compared.control = control.strategy
order by compared.model, compared.search, compared.remove, compared.control
