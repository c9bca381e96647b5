-- Retrieval: variants within a tenth of the dense model's nDCG@10, the others, and the worst.
-- grain: one row per model.
-- inputs: q30_retrieval_loss
with

means as (
    select
        model,
        recipe,
        avg(ndcg_dense) as ndcg_dense,
        avg(ndcg_loss_share) as loss,
        avg(embedding_cosine) as embedding_cosine,
        count(*) as data_sets
    from q30_retrieval_loss
    where ndcg_loss_share is not null
    group by model, recipe
)

select
    model,
    count(*) as variants,
    max(data_sets) as data_sets,
    max(ndcg_dense) as ndcg_dense,
    count(*) filter (where loss <= 0.1) as kept,
    list(recipe order by loss, recipe) filter (where loss <= 0.1) as recipes_kept,
    list(recipe order by loss, recipe) filter (where loss > 0.1) as recipes_lost,
    arg_max(recipe, loss) as worst,
    max(loss) as worst_loss,
    arg_max(embedding_cosine, loss) as worst_cosine
from means
group by model
order by model
