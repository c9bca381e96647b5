-- Our values of the quantities that were published, under the names of paper_reference.
-- grain: one row per variant × way in which a publication names it × what was measured × metric × layer.
-- key: model, recipe, method, measured_on, metric, layer
-- inputs: stg_variants, task_group_scores, stg_retrieval_scores, kld_summary, transitions_at_reference,
--   decoding_at_reference, option_shift, options_at_reference, reference_temperature
-- how to read: `unnamed` is every pruned variant, since the publication names no method there. Layers: mean cosine
--   behind one dropped sublayer in the dense context, lens raw, of the smallest drop that has the sublayer. Generation:
--   mean over prompts of the same step of both models' own texts, and the median of all steps. Options: of questions
--   with four, in the order of the dense probability, as in the published question. Estimates: scope local, lens raw;
--   ratios where 1 − cos of p is above 0.05, the correlation on the plain scale. Everything is at the reference
--   temperature.
-- reason: paper_published sets each published number beside one of these. The view is long because they come from eight
--   tables.
-- columns:
--   method: dense, the method of a drop, `unnamed`, or the recipe [label]
--   dropped: Sublayers or blocks that are gone; 1 for a single layer [sublayers or blocks]
--   measured_on: task, retrieval or text with its name, or layerwise, generation, options or estimates [label]
--   asked: Name of the task, data set or text, or what was measured [label]
--   metric: Name of the metric
--   layer: Layer whose sublayer is dropped; −1 for the whole model
--   score: Our value [share; units of text for perplexity; nats for KL]
--   score_se: Its standard error; NULL if none is known [unit of score]
--   n: Samples, queries, tokens, positions, prompts or questions that it is over
--   shots: Worked examples before each question; NULL if there are none [examples]
with

variants as (
    select
        model,
        recipe,
        method,
        sublayers_dropped,
        case when sublayers_dropped_count > 0 then method else recipe end as published_as,
        -- A block is two sublayers.
        cast(sublayers_dropped_count / case when method = 'block-drop' then 2 else 1 end as integer) as dropped
    from stg_variants
    where not is_noise
),

layer_points as (
    select *
    from transitions_at_reference
    where scope = 'local' and lens = 'raw' and is_changed
),

layers as (
    select
        points.model,
        points.recipe,
        points.sublayer,
        points.layer,
        1 - avg(points.one_minus_cos_h) as cosine_h,
        1 - avg(points.one_minus_cos_z) as cosine_z,
        1 - avg(points.one_minus_cos_p) as cosine_p,
        count(*) as n
    from layer_points as points
    inner join variants using (model, recipe)
    where list_contains(variants.sublayers_dropped, points.sublayer || '.' || points.layer)
    group by points.model, points.recipe, variants.dropped, points.sublayer, points.layer
    -- Every drop that has the sublayer makes the same swap.
    qualify
        row_number() over (
            partition by points.model, points.sublayer, points.layer order by variants.dropped, points.recipe
        ) = 1
),

options as (
    select
        shift.model,
        shift.recipe,
        shift.p_options_pruned,
        count(*) over question as n_options,
        row_number() over (question order by -shift.p_options_dense, shift.option_index) as place
    from option_shift as shift
    inner join reference_temperature using (model, recipe, temperature)
    window question as (partition by shift.model, shift.recipe, shift.prompt_id)
),

-- published_as is the published method where the variant's is not.
measured as (
    select
        model,
        recipe,
        null as published_as,
        'task ' || task_group as measured_on,
        null as layer,
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
        null as published_as,
        'retrieval ' || data_set as measured_on,
        null as layer,
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
        null as published_as,
        'text ' || text_id as measured_on,
        null as layer,
        'token_perplexity' as metric,
        ppl_pruned as score,
        ppl_pruned_se as score_se,
        cast(tokens as bigint) as n,
        null as shots
    from kld_summary

    union all

    select
        model,
        recipe,
        null as published_as,
        'generation' as measured_on,
        null as layer,
        unnest([
            'cosine_h_step' || step, 'cosine_z_step' || step, 'cosine_p_step' || step, 'kl_step' || step || '_nats'
        ]) as metric,
        unnest([
            1 - avg(one_minus_cos_h), 1 - avg(one_minus_cos_z), 1 - avg(one_minus_cos_p), avg(kl_dense_pruned_nats)
        ]) as score,
        unnest([
            standard_error(one_minus_cos_h),
            standard_error(one_minus_cos_z),
            standard_error(one_minus_cos_p),
            standard_error(kl_dense_pruned_nats)
        ]) as score_se,
        count(*) as n,
        null as shots
    from decoding_at_reference
    where trajectory = 'free_running' and step <= 1
    group by model, recipe, step

    union all

    select
        model,
        recipe,
        null as published_as,
        'generation' as measured_on,
        null as layer,
        'kl_free_running_median_nats' as metric,
        median(kl_dense_pruned_nats) as score,
        null as score_se,
        count(*) as n,
        null as shots
    from decoding_at_reference
    where trajectory = 'free_running'
    group by model, recipe

    union all

    select
        model,
        recipe,
        sublayer || '-drop' as published_as,
        'layerwise' as measured_on,
        layer,
        unnest(['cosine_h', 'cosine_z', 'cosine_p']) as metric,
        unnest([cosine_h, cosine_z, cosine_p]) as score,
        null as score_se,
        n,
        null as shots
    from layers

    union all

    select
        model,
        recipe,
        null as published_as,
        'options' as measured_on,
        null as layer,
        'mass' as metric,
        avg(mass_dense) as score,
        standard_error(mass_dense) as score_se,
        count(*) as n,
        null as shots
    from options_at_reference
    where recipe = 'dense'
    group by model, recipe

    union all

    select
        model,
        recipe,
        case when recipe <> 'dense' then 'unnamed' end as published_as,
        'options' as measured_on,
        null as layer,
        'p_option_' || ['a', 'b', 'c', 'd'][place] as metric,
        avg(p_options_pruned) as score,
        standard_error(p_options_pruned) as score_se,
        count(*) as n,
        null as shots
    from options
    where n_options = 4
    group by model, recipe, place

    union all

    select
        model,
        recipe,
        'unnamed' as published_as,
        'estimates' as measured_on,
        null as layer,
        unnest(['t2_ratio_median', 't2_ratio_max', 't3_correlation']) as metric,
        unnest([
            median(t2_p / one_minus_cos_p) filter (where one_minus_cos_p > 0.05),
            max(t2_p / one_minus_cos_p) filter (where one_minus_cos_p > 0.05),
            correlation(cast(t3_kl_nats as double), kl_dense_pruned_nats)
        ]) as score,
        null as score_se,
        unnest([count_if(one_minus_cos_p > 0.05), count_if(one_minus_cos_p > 0.05), count(*)]) as n,
        null as shots
    from layer_points
    group by model, recipe
)

select
    measured.model,
    measured.recipe,
    coalesce(measured.published_as, variants.published_as) as method,
    case measured.measured_on
        when 'layerwise' then 1
        when 'options' then 0
        when 'estimates' then 0
        else variants.dropped
    end as dropped,
    measured.measured_on,
    regexp_replace(measured.measured_on, '^(task|retrieval|text) ', '') as asked,
    measured.metric,
    coalesce(measured.layer, -1) as layer,
    measured.score,
    measured.score_se,
    cast(measured.n as bigint) as n,
    measured.shots
from measured
inner join variants using (model, recipe)
where
    measured.score is not null
    -- Without a name it is pruning.
    and (measured.published_as is distinct from 'unnamed' or variants.method not in ('rtn', 'gptq', 'awq'))
