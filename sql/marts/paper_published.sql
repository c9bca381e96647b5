-- Published numbers beside our own, where the same model was pruned in the same way and scored on the same task.
-- grain: one row per published number that has one of ours, × recipe.
-- key: model, source, method, dropped, task, metric, recipe
-- inputs: stg_paper_reference, stg_task_scores, stg_variants
-- columns:
--   model: name of the model in both
--   task: name of the task in both
--   metric: name of the metric in both
--   method: how the model was pruned, as the publication's table names it: a recipe without its count
--   value_published: the published number [share; tokens for perplexity]
--   value_ours: ours [share; tokens for perplexity]
--   value_ours_se: its standard error over samples [share; tokens for perplexity]
--   difference: ours minus the published one [share; tokens for perplexity]
-- how to read: a published drop meets the variants of the same method that drop as many sublayers or blocks; any other
--   published method meets the recipe of that name. Published numbers come without an error, so difference has ours
--   only. Shots and prompts of a task may differ between the two.
-- reason: whoever repeats a paper prints its numbers beside the new ones.
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
)

select
    published.model,
    published.source,
    published.method,
    published.dropped,
    published.task,
    published.metric,
    variants.recipe,
    published.value as value_published,
    ours.value as value_ours,
    ours.standard_error as value_ours_se,
    ours.n,
    ours.shots,
    ours.value - published.value as difference
from stg_paper_reference as published
inner join variants
    on
        published.model = variants.model
        and published.method = variants.published_as
        and published.dropped = variants.dropped
inner join stg_task_scores as ours
    on
        variants.model = ours.model
        and variants.recipe = ours.recipe
        and published.task = ours.task
        and published.metric = ours.metric
order by
    published.model,
    published.task,
    published.metric,
    published.method <> 'dense',
    published.method,
    published.dropped,
    variants.recipe,
    published.source
