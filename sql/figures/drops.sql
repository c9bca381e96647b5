-- Score of each variant that drops sublayers or blocks, by kind of task, and published curves.
-- grain: one row per model × recipe × kind, and one per model × kind × published value.
-- inputs: paper_drops, stg_variants, score_means, stg_retrieval_scores, stg_paper_reference
-- how to read: publication is NULL in rows of this warehouse; a published curve has at least three values of dropped,
--   and its rows name their source as recipe. low and high are the ends of 95 % intervals, for a retrieval score
--   Student's t over queries.
with drops as (
    select
        paper_drops.*,
        coalesce(json_extract_string(try_cast(stg_variants.parameters_json as json), '$.by'), '') as chosen_by
    from paper_drops
    left join stg_variants using (model, recipe)
),

scored as (
    -- Row i gets entry i of every unnested list.
    select
        model, recipe, method, chosen_by, dropped,
        unnest(['non_generative', 'generative']) as kind,
        unnest([non_generative_score, generative_score]) as score,
        unnest([non_generative_score_low, generative_score_low]) as low,
        unnest([non_generative_score_high, generative_score_high]) as high
    from drops

    union all

    select
        drops.model, drops.recipe, drops.method, drops.chosen_by, drops.dropped,
        score_means.measure as kind,
        score_means.score,
        score_means.score_low as low,
        score_means.score_high as high
    from drops
    inner join score_means using (model, recipe)
    where score_means.measure = 'agreement'

    union all

    select
        drops.model, drops.recipe,
        any_value(drops.method) as method,
        any_value(drops.chosen_by) as chosen_by,
        any_value(drops.dropped) as dropped,
        'retrieval' as kind,
        avg(stg_retrieval_scores.value) as score,
        within_0_and_1(
            avg(stg_retrieval_scores.value)
            - half_width_of_scores(stg_retrieval_scores.standard_error, stg_retrieval_scores.n)
        ) as low,
        within_0_and_1(
            avg(stg_retrieval_scores.value)
            + half_width_of_scores(stg_retrieval_scores.standard_error, stg_retrieval_scores.n)
        ) as high
    from drops
    inner join stg_retrieval_scores using (model, recipe)
    where stg_retrieval_scores.metric = 'ndcg_at_10'
    group by all
),

-- Only models with a pruned variant: a dense model alone makes no curve.
measured as (
    select *
    from scored
    where score is not null
    qualify max(cast(method <> 'dense' as integer)) over (partition by model) = 1
),

published as (
    select
        model as publication,
        source, method, dropped,
        case
            when metric in ('exact_match', 'pass_at_1', 'f1') then 'generative'
            when metric = 'ndcg_at_10' then 'retrieval'
            else 'non_generative'
        end as kind,
        avg(value) as score
    from stg_paper_reference
    where
        layer = -1 and metric <> 'token_perplexity' and task not in ('generation', 'options', 'estimates')
        and method in ('dense', 'attn-drop', 'mlp-drop', 'attn+mlp-drop', 'block-drop')
    group by publication, source, method, dropped, kind
    qualify count(*) over (partition by model, source, method, kind) >= 3 or method = 'dense'
),

measured_kinds as (
    select distinct model, kind
    from measured
),

published_curves as (
    select distinct publication, source, kind
    from published
    where method <> 'dense'
)

select *
from measured

union all by name

select
    kinds.model,
    published.source as recipe,
    published.method,
    '' as chosen_by,
    published.dropped, published.kind, published.score, published.publication
from published
inner join measured_kinds as kinds using (kind)
semi join published_curves using (publication, source, kind)
order by model, kind, publication nulls first, method <> 'dense', method, chosen_by, dropped, recipe, score
