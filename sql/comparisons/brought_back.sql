-- Which share of its KL does a start lose if a search puts sublayers back, on held-out items?
-- grain: one row per number of sublayers put back × strategy.
-- key: put_back, strategy
-- inputs: stg_search_trials
-- parameters: $1 the model; $2 the search
-- how to read: a set of dense sublayers is measured on items that the search did not use; its parent is the start,
--   measured on the same items. low and high are the interval of one set. Random sets of a size are one row, their
--   mean.
-- reason: sublayers that were chosen on some items may bring back less on others.
with held_out as (
    -- The sets of the controls follow that of the search that they are compared with.
    select
        *,
        last_value(if(strategy = 'searched', n_treated, null) ignore nulls) over (order by trial)
            as n_treated_of_search
    from stg_search_trials
    where model = $1 and search = $2 and move = 'held_out'
)

select
    origins.n_treated - held_out.n_treated_of_search as put_back,
    held_out.strategy,
    avg(-held_out.difference_nats / origins.measured_nats) as kl_brought_back,
    avg(-held_out.difference_high / origins.measured_nats) as low,
    avg(-held_out.difference_low / origins.measured_nats) as high,
    count(*) as sets,
    any_value(held_out.n_items) as texts
from held_out
inner join stg_search_trials as origins
    on held_out.model = origins.model and held_out.search = origins.search and held_out.parent = origins.trial
group by put_back, held_out.strategy
order by put_back, held_out.strategy <> 'searched', held_out.strategy
