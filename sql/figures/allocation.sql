-- The treatment of every sublayer in each result of a search.
-- grain: one row per model × search × strategy × target × sublayer.
-- inputs: search_allocation
select
    model,
    search,
    strategy,
    remove,
    layer,
    sublayer,
    treatment,
    removed_share,
    effect_nats
from search_allocation
order by
    model,
    search,
    list_position(['searched', 'hidden', 'random', 'greedy'], strategy),
    remove,
    layer,
    sublayer
