-- Our values of the published quantities of generation, layers, options and estimates.
-- grain: one row per variant × way in which a publication names it × what was measured × metric × layer.
-- key: model, recipe, published_as, measured_on, metric, layer
-- inputs: stg_variants, transitions_at_reference, decoding_at_reference, option_shift, options_at_reference,
--   reference_temperature
-- how to read: layerwise is the mean cosine after one dropped sublayer in the dense context, lens raw, of the smallest
--   drop that has the sublayer. generation compares the same step of both models' own texts: the mean over prompts, and
--   the median over all steps. options is over questions with four options, in the order of the dense probability, as
--   in the published question. estimates are of scope local and lens raw: ratios over positions with 1 − cos of p above
--   0.05, the correlation on the plain scale. Everything is at the reference temperature.
-- reason: published_quantities joins these to the scores of tasks, data sets and texts.
-- columns:
--   published_as: Method that the publication names: that of the drop, `unnamed`, or empty if it is the variant's own
--     [label]
--   measured_on: layerwise, generation, options or estimates [label]
--   metric: Name of the metric
--   layer: Layer whose sublayer is dropped; −1 for the whole model
--   score: Our value [share; nats for KL]
--   score_se: Its standard error; NULL if none is known [unit of score]
--   n: Positions, prompts or questions behind it
with layer_points as (
    select *
    from transitions_at_reference
    where scope = 'local' and lens = 'raw' and is_changed
),

layers as (
    select
        points.model, points.recipe, points.sublayer, points.layer,
        1 - avg(points.one_minus_cos_h) as cosine_h,
        1 - avg(points.one_minus_cos_z) as cosine_z,
        1 - avg(points.one_minus_cos_p) as cosine_p,
        count(*) as n
    from layer_points as points
    inner join stg_variants as variants using (model, recipe)
    where list_contains(variants.sublayers_dropped, points.sublayer || '.' || points.layer)
    group by points.model, points.recipe, variants.units_dropped, points.sublayer, points.layer
    -- All drops that have the sublayer make the same swap; one of them is enough.
    qualify
        row_number() over (
            partition by points.model, points.sublayer, points.layer order by variants.units_dropped, points.recipe
        ) = 1
),

options as (
    select
        shift.model, shift.recipe, shift.p_options_pruned,
        count(*) over question as n_options,
        row_number() over (question order by -shift.p_options_dense, shift.option_index) as place
    from option_shift as shift
    inner join reference_temperature using (model, recipe, temperature)
    window question as (partition by shift.model, shift.recipe, shift.prompt_id)
)

-- Row i gets entry i of every unnested list.
select
    model, recipe,
    '' as published_as,
    'generation' as measured_on,
    -1 as layer,
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
    count(*) as n
from decoding_at_reference
where trajectory = 'free_running' and step <= 1
group by model, recipe, step

union all

select
    model, recipe,
    '' as published_as,
    'generation' as measured_on,
    -1 as layer,
    'kl_free_running_median_nats' as metric,
    median(kl_dense_pruned_nats) as score,
    null as score_se,
    count(*) as n
from decoding_at_reference
where trajectory = 'free_running'
group by all

union all

select
    model, recipe,
    sublayer || '-drop' as published_as,
    'layerwise' as measured_on,
    layer,
    unnest(['cosine_h', 'cosine_z', 'cosine_p']) as metric,
    unnest([cosine_h, cosine_z, cosine_p]) as score,
    null as score_se,
    n
from layers

union all

select
    model, recipe,
    '' as published_as,
    'options' as measured_on,
    -1 as layer,
    'mass' as metric,
    avg(mass_dense) as score,
    standard_error(mass_dense) as score_se,
    count(*) as n
from options_at_reference
where recipe = 'dense'
group by all

union all

select
    model, recipe,
    if(recipe = 'dense', '', 'unnamed') as published_as,
    'options' as measured_on,
    -1 as layer,
    'p_option_' || ['a', 'b', 'c', 'd'][place] as metric,
    avg(p_options_pruned) as score,
    standard_error(p_options_pruned) as score_se,
    count(*) as n
from options
where n_options = 4
group by model, recipe, place

union all

select
    model, recipe,
    'unnamed' as published_as,
    'estimates' as measured_on,
    -1 as layer,
    unnest(['t2_ratio_median', 't2_ratio_max', 't3_correlation']) as metric,
    unnest([
        median(t2_p / one_minus_cos_p) filter (where one_minus_cos_p > 0.05),
        max(t2_p / one_minus_cos_p) filter (where one_minus_cos_p > 0.05),
        correlation(cast(t3_kl_nats as double), kl_dense_pruned_nats)
    ]) as score,
    null as score_se,
    unnest(cast([count_if(one_minus_cos_p > 0.05), count_if(one_minus_cos_p > 0.05), count(*)] as bigint[])) as n
from layer_points
group by model, recipe
