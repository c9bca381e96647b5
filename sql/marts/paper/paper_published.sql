-- Every published number, next to ours for the same quantity and the same drop or recipe, for every model.
-- grain: one row per published number × model of ours × recipe × what ours was measured on.
-- key: model, recipe, model_published, source, method, dropped, task, metric, layer, measured_on
-- across: models
-- inputs: stg_paper_reference, published_quantities
-- columns:
--   model: name of our model; of the published one if ours was not measured
--   recipe: our recipe; the published method and count if ours was not measured
--   model_published: name of the published model
--   is_same_model: whether our model has the same name
--   source: where it was published
--   method: how the model was pruned, as the publication's table names it: a recipe without its count
--   dropped: dropped sublayers or blocks, equal in both
--   task: name of the task or of the group of tasks, of the retrieval data set, or of the text; or what was measured
--   metric: name of the metric in both
--   layer: layer whose sublayer is dropped; −1 for a number of the whole model
--   measured_on: kind and name of what ours was measured on; `nothing` if ours was not measured
--   value_published: the published number [share; units of text for perplexity; nats for KL]
--   value_ours: ours; NULL if it was not measured [share; units of text for perplexity; nats for KL]
--   value_ours_se: its standard error [share; units of text for perplexity; nats for KL]
--   n: samples, queries, tokens, positions, prompts or questions behind ours
--   shots: worked examples in front of ours; NULL if it has none
--   difference: ours minus the published one [share; units of text for perplexity; nats for KL]
--   kept_published: what pruning left of the published dense score; NULL if that is 0 or not published [ratio] =
--     value/dense
--   kept_ours: what pruning left of our dense score, the same way [ratio] = value/dense
-- how to read: a number that we have not measured has one row. A published drop is matched with the variants of the
--   same method that drop as many sublayers or blocks, any other published method with the recipe of that name, and
--   `unnamed` with every pruned variant. published_quantities says what our value is. Numbers of different models are
--   not comparable. The shares that remain after pruning (kept_*) are, roughly; models differ in depth and ability. For
--   a perplexity, a share above 1 is a loss. A published token_perplexity is matched with our perplexities of the tasks
--   and texts whose name begins with the task's; perplexities of another context are not comparable. Published numbers
--   have no error, so the error of difference is ours only. Shots, prompts and samples of a task may differ between the
--   two.
-- reason: a replication prints the published numbers and its own, and says which of them it has not measured.
with published as (
    select
        pruned.*,
        pruned.value / nullif(dense.value, 0) as kept
    from stg_paper_reference as pruned
    left join stg_paper_reference as dense
        on
            pruned.model = dense.model and pruned.source = dense.source and pruned.task = dense.task
            and pruned.metric = dense.metric and pruned.layer = -1 and dense.layer = -1 and dense.method = 'dense'
),

ours as (
    select
        pruned.*,
        pruned.score / nullif(dense.score, 0) as kept
    from published_quantities as pruned
    left join published_quantities as dense
        on
            pruned.model = dense.model and pruned.measured_on = dense.measured_on and pruned.metric = dense.metric
            and pruned.layer = -1 and dense.layer = -1 and dense.method = 'dense'
)

select
    coalesce(ours.model, published.model) as model,  -- noqa: RF04
    coalesce(
        ours.recipe, published.method || case when published.dropped > 0 then '-' || published.dropped else '' end
    ) as recipe,
    published.model as model_published,
    published.model = coalesce(ours.model, published.model) as is_same_model,
    published.source, published.method, published.dropped, published.task, published.metric, published.layer,
    coalesce(ours.measured_on, 'nothing') as measured_on,
    published.value as value_published,
    ours.score as value_ours,
    ours.score_se as value_ours_se,
    ours.n, ours.shots,
    ours.score - published.value as difference,
    published.kept as kept_published,
    ours.kept as kept_ours
from published
left join ours
    on
        published.method = ours.method and published.dropped = ours.dropped and published.metric = ours.metric
        and published.layer = ours.layer
        and (
            published.task = ours.asked
            or (published.metric = 'token_perplexity' and starts_with(ours.asked, published.task))
        )
order by
    ours.model is null, ours.model, not is_same_model, published.model, published.task, published.metric,
    published.method <> 'dense', published.method, published.dropped, published.layer, recipe, measured_on,
    published.source
