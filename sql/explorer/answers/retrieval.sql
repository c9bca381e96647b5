-- Retrieval: variants that surely keep nine tenths of the dense model's nDCG@10, that surely do not, and the worst one.
-- grain: one row per model.
-- inputs: q30_retrieval_loss
-- how to read: a loss is the mean over data sets, for variants that have all of them; its interval takes the data sets'
--   queries as independent.
with means as (
    select
        model, recipe,
        avg(ndcg_dense) as ndcg_dense,
        avg(ndcg_loss_share) as loss,
        -- NULL if a data set has no interval.
        if(
            count(ndcg_loss_share_high) = count(*),
            sqrt(sum((ndcg_loss_share_high - ndcg_loss_share) ** 2)) / count(*),
            null
        ) as half_width,
        avg(embedding_cosine) as embedding_cosine,
        count(*) as data_sets
    from q30_retrieval_loss
    where ndcg_loss_share is not null
    group by model, recipe
    qualify count(*) = max(count(*)) over (partition by model)
),

intervals as (
    select *, loss - half_width as low, loss + half_width as high
    from means
)

select
    model,
    count(*) as variants,
    max(data_sets) as data_sets,
    max(ndcg_dense) as ndcg_dense,
    count(*) filter (where high <= verdict_tolerance()) as kept,
    list(recipe order by loss, recipe) filter (where high <= verdict_tolerance()) as recipes_kept,
    list(recipe order by loss, recipe) filter (where low > verdict_tolerance()) as recipes_lost,
    list(recipe order by loss, recipe) filter (
        where coalesce(low <= verdict_tolerance() and high > verdict_tolerance(), true)
    ) as recipes_open,
    arg_max(recipe, loss) as worst,
    max(loss) as worst_loss,
    arg_max(embedding_cosine, loss) as worst_cosine
from intervals
group by model
order by model
