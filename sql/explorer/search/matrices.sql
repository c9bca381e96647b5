-- The share that each kind of matrix loses in the results of searches.
-- grain: one row per model × search × target × kind of matrix of the strategy searched.
-- inputs: search_matrices
select
    model, search, remove, sublayer, matrix,
    sum(weights) / sum(sum(weights)) over (partition by model, search, remove) as share_of_weights,
    sum(removed_share * weights) / sum(weights) filter (removed_share is not null) as removed_share,
    min(removed_share) as lowest_share,
    arg_min(layer, removed_share) as in_layer,
    max(removed_share) as highest_share,
    arg_max(layer, removed_share) as and_in_layer
from search_matrices
where strategy = 'searched'
group by model, search, remove, sublayer, matrix
order by model, search, remove, sublayer, matrix
