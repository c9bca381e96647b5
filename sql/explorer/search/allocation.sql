-- The sublayers that get each treatment in the results of searches.
-- grain: one row per model × search × target × treatment of the strategy searched.
-- inputs: search_allocation
select
    model, search, remove, treatment,
    count(*) as sublayers,
    sum(effect_nats) as effects_sum_nats,
    string_agg(sublayer || '.' || layer, ' ' order by layer, sublayer) as sublayer_names
from search_allocation
where strategy = 'searched'
group by all
order by model, search, remove, avg(removed_share), treatment
