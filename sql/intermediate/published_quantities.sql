-- Our values of the quantities that were published, under the names of paper_reference.
-- grain: one row per variant × way in which a publication names it × what was measured × metric × layer.
-- key: model, recipe, method, measured_on, metric, layer
-- inputs: stg_variants, task_group_scores, stg_retrieval_scores, kld_summary, trace_quantities
-- how to read: `unnamed` stands for every pruned variant, because the publication names no method. trace_quantities
--   says how quantities other than scores are measured.
-- reason: paper_published compares each published number with one of these.
-- columns:
--   method: dense, the method of a drop, `unnamed`, or the recipe [label]
--   dropped: Dropped sublayers or blocks; 1 for a single layer [sublayers or blocks]
--   measured_on: task, retrieval or text with its name, or layerwise, generation, options or estimates [label]
--   asked: Name of the task, data set or text, or what was measured [label]
--   metric: Name of the metric
--   score: Our value [share; units of text for perplexity; nats for KL]
--   score_se: Its standard error; NULL if none is known [unit of score]
--   n: Samples, queries, tokens, positions, prompts or questions behind it
--   shots: Worked examples before each question; NULL if there are none [examples]
with measured as (
    select
        model, recipe,
        '' as published_as,
        'task ' || task_group as measured_on,
        -1 as layer,
        metric, score, score_se, n, shots
    from task_group_scores

    union all

    select
        model, recipe,
        '' as published_as,
        'retrieval ' || data_set as measured_on,
        -1 as layer,
        metric,
        value as score,
        standard_error as score_se,
        n,
        null as shots
    from stg_retrieval_scores

    union all

    select
        model, recipe,
        '' as published_as,
        'text ' || text_id as measured_on,
        -1 as layer,
        'token_perplexity' as metric,
        ppl_pruned as score,
        ppl_pruned_se as score_se,
        cast(tokens as bigint) as n,
        null as shots
    from kld_summary

    union all

    select
        model, recipe, published_as, measured_on, layer, metric, score, score_se, n,
        null as shots
    from trace_quantities
)

select
    measured.model, measured.recipe,
    case
        when measured.published_as <> '' then measured.published_as
        when variants.sublayers_dropped_count > 0 then variants.method
        else variants.recipe
    end as method,
    case measured.measured_on
        when 'layerwise' then 1
        when 'options' then 0
        when 'estimates' then 0
        else variants.units_dropped
    end as dropped,
    measured.measured_on,
    regexp_replace(measured.measured_on, '^(task|retrieval|text) ', '') as asked,
    measured.metric,
    cast(measured.layer as smallint) as layer,
    measured.score, measured.score_se,
    cast(measured.n as bigint) as n,
    measured.shots
from measured
inner join stg_variants as variants using (model, recipe)
where
    not variants.is_noise and measured.score is not null
    -- A publication that names no method is about pruning, not quantization.
    and (measured.published_as <> 'unnamed' or variants.method not in ('rtn', 'gptq', 'awq'))
