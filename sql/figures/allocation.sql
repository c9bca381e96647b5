-- The treatment of every sublayer, and of every matrix where it is split, in each result of a search.
-- grain: one row per model × search × strategy × target × sublayer × matrix; `all` where no matrix has its own share.
-- inputs: search_allocation, search_matrices
with

places as (
    select
        model,
        search,
        strategy,
        remove,
        layer,
        sublayer,
        matrix,
        treatment,
        removed_share,
        effect_nats
    from search_matrices
    union all
    select
        whole.model,
        whole.search,
        whole.strategy,
        whole.remove,
        whole.layer,
        whole.sublayer,
        'all' as matrix,
        whole.treatment,
        whole.removed_share,
        whole.effect_nats
    from search_allocation as whole
    anti join search_matrices as parts
        on whole.model = parts.model and whole.search = parts.search
)

select
    model,
    search,
    strategy,
    remove,
    layer,
    sublayer,
    matrix,
    treatment,
    removed_share,
    effect_nats
from places
order by
    model,
    search,
    list_position(['searched', 'hidden', 'random', 'greedy'], strategy),
    remove,
    layer,
    sublayer,
    matrix
