-- The number behind each claim of the paper, on each model, with its interval.
-- grain: one row per model × claim × measure.
-- key: model, claim, measure
-- inputs: task_losses, paper_fits, layer_summary, reference_temperature, options_at_reference, variant_summary
-- how to read: paper_claims states the claims, their thresholds, and how each number is made.
-- reason: paper_claims only compares these numbers with its thresholds. The view is a little long because each claim
--   has its own way of counting.
-- columns:
--   claim: choosing_survives, writing_loses_more, second_order_fits, softmax_amplifies, choice_is_kept,
--     options_move_less, options_in_the_tail or decoding_feeds_back [label]
--   measure: score or agreement of tasks, a theorem, a lens; all where there is one way to measure it [label]
--   n: Number of units [units]
--   units: variants, methods, sublayers or questions [label]
--   amount: The number [share; correlation for second_order_fits]
--   amount_low: Lower end of its 95 % interval; NULL where the uncertainty is not known [as amount]
--   amount_high: Upper end of its 95 % interval; NULL where the uncertainty is not known [as amount]
with

losses as (
    select
        model,
        recipe,
        measure,
        max(loss) filter (where kind = 'generative') as writing,
        max(loss) filter (where kind = 'non_generative') as choosing,
        max(loss_se) filter (where kind = 'generative') as writing_se,
        max(loss_se) filter (where kind = 'non_generative') as choosing_se
    from task_losses
    group by model, recipe, measure
),

-- Lists unnested in one select are expanded in parallel.
broken as (
    select
        model,
        measure,
        unnest(['choosing_survives', 'writing_loses_more']) as claim,
        unnest([choosing, writing - choosing]) as amount,
        unnest([choosing_se, sqrt(writing_se ** 2 + choosing_se ** 2)]) as amount_se
    from losses
    where writing >= 0.5 and choosing is not null
),

task_claims as (
    select
        model,
        claim,
        measure,
        count(*) as n,
        'variants' as units,
        avg(amount) as value_of_claim,
        1.959963984540054 * sqrt(var_samp(amount) / count(*) + avg(amount_se) ** 2) as half_width
    from broken
    group by model, claim, measure
),

fit_claims as (
    select
        model,
        'second_order_fits' as claim,
        theorem,
        count(*) as n,
        'methods' as units,
        avg(pearson_log10) as value_of_claim,
        -- Methods are measured on the same prompts, so that their errors are not independent.
        1.959963984540054 * avg(pearson_log10_se) as half_width
    from paper_fits
    where pearson_log10 is not null
    group by model, theorem
),

sublayers as (
    select
        layers.model,
        layers.lens,
        avg(cast(layers.one_minus_cos_p_mean > layers.one_minus_cos_z_mean as integer)) > 0.5 as is_so
    from layer_summary as layers
    semi join reference_temperature
        on
            layers.model = reference_temperature.model
            and layers.recipe = reference_temperature.recipe
            and layers.temperature = reference_temperature.temperature
    where layers.is_changed and layers.scope = 'local' and layers.recipe <> 'dense'
    group by layers.model, layers.lens, layers.layer, layers.sublayer
),

questions as (
    select
        options.model,
        avg(cast(options.is_argmax_same as integer)) > 0.5 as is_kept,
        avg(cast(options.kl_options_dense_pruned_nats < options.kl_dense_pruned_nats as integer)) > 0.5 as is_less,
        any_value(options.mass_dense) < 0.01 as is_tail
    from options_at_reference as options
    where options.recipe <> 'dense'
    group by options.model, options.prompt_id
),

counted as (
    select
        model,
        unnest(['choice_is_kept', 'options_move_less', 'options_in_the_tail']) as claim,
        'all' as measure,
        'questions' as units,
        unnest([is_kept, is_less, is_tail]) as is_so
    from questions

    union all

    select
        model,
        'softmax_amplifies' as claim,
        lens,
        'sublayers' as units,
        is_so
    from sublayers

    union all

    select
        model,
        'decoding_feeds_back' as claim,
        'all' as measure,
        'variants' as units,
        kl_free_running_median_nats > kl_teacher_forced_median_nats as is_so
    from variant_summary
    where
        recipe <> 'dense'
        and kl_free_running_median_nats is not null
        and kl_teacher_forced_median_nats is not null
),

share_claims as (
    select
        model,
        claim,
        measure,
        units,
        count(*) as n,
        count(*) filter (where is_so) as times
    from counted
    group by model, claim, measure, units
)

select
    model,
    claim,
    measure,
    n,
    units,
    value_of_claim as amount,
    value_of_claim - half_width as amount_low,
    -- A correlation is at most 1.
    case
        when claim = 'second_order_fits' then within_0_and_1(value_of_claim + half_width)
        else value_of_claim + half_width
    end as amount_high
from (
    select * from task_claims
    union all
    select * from fit_claims
) as with_errors

union all

select
    model,
    claim,
    measure,
    n,
    units,
    times / n as amount,
    wilson_interval(times, n)[1] as amount_low,
    wilson_interval(times, n)[2] as amount_high
from share_claims
