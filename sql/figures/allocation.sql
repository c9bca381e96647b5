-- The treatment of every sublayer, and of every matrix if it is split, in each result of a search.
-- grain: one row per model × search × strategy × target × sublayer × matrix; `all` if no matrix has its own share.
-- inputs: search_allocation, search_matrices
select
    whole.model, whole.search, whole.strategy, whole.remove, whole.layer, whole.sublayer,
    coalesce(parts.matrix, 'all') as matrix,
    whole.treatment,
    coalesce(parts.removed_share, whole.removed_share) as removed_share,
    if(parts.matrix is null, whole.effect_nats, parts.effect_nats) as effect_nats
from search_allocation as whole
left join search_matrices as parts using (model, search, strategy, remove, layer, sublayer)
order by
    whole.model, whole.search, list_position(['searched', 'hidden', 'random', 'greedy'], whole.strategy), whole.remove,
    whole.layer, whole.sublayer, matrix
