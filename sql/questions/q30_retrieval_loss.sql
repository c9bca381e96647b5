-- Does the cosine between dense and pruned embeddings predict what retrieval loses?
-- grain: one row per model × recipe × data set.
-- key: model, recipe, data_set
-- inputs: stg_retrieval_scores, stg_retrieval_queries, noise_variants
-- how to read: ndcg_loss is the dense nDCG@10 minus the variant's; below 0 the variant finds more. ndcg_loss_share is
--   ndcg_loss divided by the dense nDCG@10. The interval is paired by query: delta method with Student's t. If all
--   queries have the same influence, half its width is the Wilson upper limit for 0 of n queries. spearman relates 1 −
--   embedding_cosine and ndcg_loss_share over all rows of the model with both (the same in each of its rows): 1 means
--   that the loss increases strictly with 1 − cosine. It is NULL below 10 rows or if one side does not vary. Its
--   interval is Student's t with data sets as the independent units, to first order, with ranks taken as given; NULL
--   below two data sets and for a perfect ranking. The dense recipe and noise variants are excluded.
-- reason: retrieval reads h and not the softmax, so the paper expects it to survive as long as h does.
-- columns:
--   embedding_cosine: Mean cosine between the dense and the pruned embedding of a text; NULL if not measured [-1 to 1]
--   ndcg_dense: The dense model's nDCG@10 [share]
--   ndcg_pruned: The variant's nDCG@10 [share]
--   ndcg_loss: What the variant loses [share] = ndcg_dense − ndcg_pruned
--   ndcg_loss_share: Part of the dense score that is lost; NULL if that is 0 [share] = ndcg_loss/ndcg_dense
--   ndcg_loss_share_low: Lower end of its 95 % interval; NULL without the values of the queries [share]
--   n_queries: Queries of the data set [queries]
--   spearman: Rank correlation of 1 − embedding_cosine and ndcg_loss_share over the model's rows [-1 to 1]
--   spearman_low: Lower end of its 95 % interval, Student's t over data sets on Fisher's scale [-1 to 1]
with losses as (
    select
        pruned.model, pruned.recipe, pruned.data_set,
        cosines.value as embedding_cosine,
        dense.value as ndcg_dense,
        pruned.value as ndcg_pruned,
        dense.value - pruned.value as ndcg_loss,
        (dense.value - pruned.value) / nullif(dense.value, 0) as ndcg_loss_share,
        pruned.n as n_queries
    from stg_retrieval_scores as pruned
    anti join noise_variants using (model, recipe)
    inner join stg_retrieval_scores as dense using (model, data_set, data_hash, metric)
    left join stg_retrieval_scores as cosines
        on
            pruned.model = cosines.model and pruned.recipe = cosines.recipe and pruned.data_set = cosines.data_set
            and cosines.metric = 'embedding_cosine'
    where pruned.metric = 'ndcg_at_10' and pruned.recipe <> 'dense' and dense.recipe = 'dense'
),

query_pairs as (
    select
        losses.model, losses.recipe, losses.data_set,
        (losses.ndcg_pruned / losses.ndcg_dense * dense.value - pruned.value)
        / (losses.ndcg_dense * losses.n_queries) as influence
    from losses
    inner join stg_retrieval_queries as pruned using (model, recipe, data_set)
    inner join stg_retrieval_queries as dense using (model, data_set, data_hash, query_id, metric)
    where losses.ndcg_loss_share is not null and pruned.metric = 'ndcg_at_10' and dense.recipe = 'dense'
),

query_spreads as (
    select
        model, recipe, data_set,
        coalesce(half_width_over_clusters(influence), wilson_interval(0, count(*))[2]) as half_width
    from query_pairs
    group by all
),

ranked as (
    select
        model, data_set,
        count_below(-embedding_cosine, row(model)) as x,
        count_below(ndcg_loss_share, row(model)) as y
    from losses
    where embedding_cosine is not null and ndcg_loss_share is not null
),

data_set_sums as (
    select
        model, data_set,
        cast(count(*) as double) as n,
        sum(x) as x,
        sum(y) as y,
        sum(x * x) as xx,
        sum(y * y) as yy,
        sum(x * y) as xy
    from ranked
    group by all
),

fits as (
    select
        model,
        case
            when sum(n) >= 10 then correlation_of_sums(sum(n), sum(x), sum(y), sum(xx), sum(yy), sum(xy))
        end as spearman,
        sum(x) / sum(n) as x_mean,
        sum(y) / sum(n) as y_mean,
        sum(xx) - sum(x) ** 2 / sum(n) as all_xx,
        sum(yy) - sum(y) ** 2 / sum(n) as all_yy,
        sum(xy) - sum(x) * sum(y) / sum(n) as all_xy
    from data_set_sums
    group by all
),

spreads as (
    select
        fits.model,
        half_width_over_clusters(
            influence_on_correlation(
                sums.xy - fits.x_mean * sums.y - fits.y_mean * sums.x + sums.n * fits.x_mean * fits.y_mean,
                sums.xx - 2 * fits.x_mean * sums.x + sums.n * fits.x_mean ** 2,
                sums.yy - 2 * fits.y_mean * sums.y + sums.n * fits.y_mean ** 2,
                fits.all_xy,
                fits.all_xx,
                fits.all_yy
            )
        ) as half_width
    from fits
    inner join data_set_sums as sums using (model)
    where fits.spearman is not null
    group by all
)

select
    losses.model, losses.recipe, losses.data_set, losses.embedding_cosine, losses.ndcg_dense, losses.ndcg_pruned,
    losses.ndcg_loss, losses.ndcg_loss_share,
    losses.ndcg_loss_share - query_spreads.half_width as ndcg_loss_share_low,
    losses.ndcg_loss_share + query_spreads.half_width as ndcg_loss_share_high,
    losses.n_queries, fits.spearman,
    interval_of_correlation(fits.spearman, spreads.half_width)[1] as spearman_low,
    interval_of_correlation(fits.spearman, spreads.half_width)[2] as spearman_high
from losses
left join query_spreads using (model, recipe, data_set)
left join fits using (model)
left join spreads using (model)
order by losses.model, losses.recipe, losses.data_set
