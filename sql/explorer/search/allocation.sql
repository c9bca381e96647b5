-- The sublayers that get each treatment in the results of searches.
-- grain: one row per model × search × target × treatment of the strategy searched.
-- inputs: search_allocation
select
    model, search, remove, treatment,
    count(*) as sublayers,
    string_agg(sublayer || '.' || layer, ' ' order by layer, sublayer) as sublayer_names,
    sum(effect_nats) as effects_sum_nats
from search_allocation
where strategy = 'searched'
group by all
order by model, search, remove, avg(removed_share), treatment
