-- Published numbers beside ours of the same drop or recipe and the same task, whatever the model.
-- grain: one row per model of ours × published number of a whole model × recipe × what ours was measured on.
-- key: model, recipe, model_published, source, method, dropped, task, metric, measured_on
-- inputs: stg_paper_reference, task_group_scores, stg_retrieval_scores, kld_summary, stg_variants
-- columns:
--   model: name of our model
--   model_published: name of the published model
--   is_same_model: whether that is the name of ours
--   source: where it was published
--   method: how the model was pruned, as the publication's table names it: a recipe without its count
--   dropped: sublayers or blocks that are gone in both
--   task: name of the task or of the group of tasks, of the retrieval data set, or of the text
--   metric: name of the metric in both
--   measured_on: `task`, `retrieval` or `text` and the name of what ours was measured on
--   value_published: the published number [share; units of text for perplexity]
--   value_ours: ours [share; units of text for perplexity]
--   value_ours_se: its standard error [share; units of text for perplexity]
--   n: samples, queries or tokens that ours is over
--   shots: worked examples in front of ours; NULL where it has none
--   difference: ours minus the published one [share; units of text for perplexity]
--   kept_published: what pruning left of the published dense score; NULL where that is 0 or not published [ratio] =
--     value/dense
--   kept_ours: what pruning left of our dense score, the same way [ratio] = value/dense
-- how to read: a published drop is matched with the variants of the same method that drop as many sublayers or blocks;
--   any other published method with the recipe of that name. The numbers of another model do not compare directly; the
--   shares that remain after pruning (kept_*) do, roughly, because models differ in depth and ability. A perplexity can
--   lose more than 1. A published token_perplexity is matched with our perplexities of the tasks and texts whose name
--   begins with the task's; perplexities of another context do not compare. Published numbers have no error, so that
--   the error of difference is ours only. Shots, prompts and samples of a task may differ between the two.
-- reason: a replication prints the published numbers beside its own. The view is long because scores come from three
--   tables.
with

variants as (
    select
        model,
        recipe,
        case when sublayers_dropped_count > 0 then method else recipe end as published_as,
        -- A block is two sublayers.
        cast(sublayers_dropped_count / case when method = 'block-drop' then 2 else 1 end as integer) as dropped
    from stg_variants
    where not is_noise
),

texts as (
    select
        model,
        recipe,
        text_id,
        ppl_pruned as score,
        ppl_pruned_se as score_se,
        cast(tokens as bigint) as n
    from kld_summary
),

ours as (
    select
        model,
        recipe,
        'task ' || task_group as measured_on,
        task_group as asked,
        metric,
        score,
        score_se,
        n,
        shots
    from task_group_scores

    union all

    select
        model,
        recipe,
        'retrieval ' || data_set as measured_on,
        data_set as asked,
        metric,
        value as score,
        standard_error as score_se,
        n,
        null as shots
    from stg_retrieval_scores

    union all

    select
        model,
        recipe,
        'text ' || text_id as measured_on,
        text_id as asked,
        'token_perplexity' as metric,
        score,
        score_se,
        n,
        null as shots
    from texts
),

published as (
    select
        pruned.model,
        pruned.source,
        pruned.method,
        pruned.dropped,
        pruned.task,
        pruned.metric,
        pruned.value,
        pruned.value / nullif(dense.value, 0) as kept
    from stg_paper_reference as pruned
    left join stg_paper_reference as dense
        on
            pruned.model = dense.model
            and pruned.source = dense.source
            and pruned.task = dense.task
            and pruned.metric = dense.metric
            and dense.method = 'dense'
            and dense.layer = -1
    where pruned.layer = -1
),

scored as (
    select
        variants.model,
        variants.recipe,
        variants.published_as,
        variants.dropped,
        pruned.measured_on,
        pruned.asked,
        pruned.metric,
        pruned.score,
        pruned.score_se,
        pruned.n,
        pruned.shots,
        pruned.score / nullif(dense.score, 0) as kept
    from variants
    inner join ours as pruned
        on variants.model = pruned.model and variants.recipe = pruned.recipe
    left join ours as dense
        on
            pruned.model = dense.model
            and pruned.measured_on = dense.measured_on
            and pruned.metric = dense.metric
            and dense.recipe = 'dense'
)

select
    scored.model,
    scored.recipe,
    published.model as model_published,
    published.model = scored.model as is_same_model,
    published.source,
    published.method,
    published.dropped,
    published.task,
    published.metric,
    scored.measured_on,
    published.value as value_published,
    scored.score as value_ours,
    scored.score_se as value_ours_se,
    scored.n,
    scored.shots,
    scored.score - published.value as difference,
    published.kept as kept_published,
    scored.kept as kept_ours
from published
inner join scored
    on
        published.method = scored.published_as
        and published.dropped = scored.dropped
        and published.metric = scored.metric
        and (
            published.task = scored.asked
            or (published.metric = 'token_perplexity' and starts_with(scored.asked, published.task))
        )
order by
    scored.model,
    not published.model = scored.model,
    published.model,
    published.task,
    published.metric,
    published.method <> 'dense',
    published.method,
    published.dropped,
    scored.recipe,
    scored.measured_on,
    published.source
