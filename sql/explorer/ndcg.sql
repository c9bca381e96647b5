-- Retrieval, mean nDCG@10 over the data sets.
-- grain: one row per model × recipe.
-- inputs: stg_retrieval_scores
select
    model, recipe,
    avg(value) as ndcg_at_10
from stg_retrieval_scores
where metric = 'ndcg_at_10'
group by all
order by model, recipe
