-- The number behind each claim of the paper, on each model, with its interval and its null.
-- grain: one row per model × claim × measure.
-- key: model, claim, measure
-- inputs: claim_variants, task_losses, paper_fits, noise_fits, local_amplification, claim_units
-- how to read: paper_claims states the claims, their thresholds, and how each number and its interval is made.
-- reason: paper_claims only compares these numbers with its thresholds.
-- columns:
--   claim: choosing_survives, writing_loses_more, second_order_fits, softmax_amplifies, choice_is_kept,
--     options_move_less, options_in_the_tail, own_text_is_further or free_running_exceeds_fork [label]
--   measure: score or agreement of tasks, a theorem, a lens, a scale; all if there is one way to measure it [label]
--   n: Number of independent units that the number rests on [units]
--   units: answers, prompts or questions [label]
--   rests_on: Number of units, and of the variants, methods or sublayers measured on all of them
--   is_rounding: Whether no variant of the model moves further than rounding moves it
--   amount: The number [share, correlation, nats or ln ratio]
--   amount_low: Lower end of its 95 % interval; NULL if the uncertainty is not known [as amount]
--   null_amount: The same number of the noise variant; NULL if it was not measured [as amount]
--   null_amount_high: Upper end of its 95 % interval; NULL if it has no interval [as amount]
with losses as (
    select
        losses.model, losses.recipe, losses.measure,
        bool_or(variants.is_rounding) as is_rounding,
        max(losses.loss_beyond_noise) filter (where losses.kind = 'generative') as writing,
        max(losses.loss_beyond_noise_low) filter (where losses.kind = 'generative') as writing_low,
        max(losses.loss_beyond_noise_high) filter (where losses.kind = 'generative') as writing_high,
        max(losses.n_answers) filter (where losses.kind = 'generative') as writing_answers,
        max(losses.loss_beyond_noise) filter (where losses.kind = 'non_generative') as choosing,
        max(losses.loss_beyond_noise_low) filter (where losses.kind = 'non_generative') as choosing_low,
        max(losses.loss_beyond_noise_high) filter (where losses.kind = 'non_generative') as choosing_high,
        max(losses.n_answers) filter (where losses.kind = 'non_generative') as choosing_answers,
        count(losses.noise_loss) = count(*) as has_null
    from task_losses as losses
    inner join claim_variants as variants using (model, recipe)
    group by all
),

-- Row i gets entry i of every unnested list.
by_variant as (
    select
        model, measure, is_rounding, has_null,
        count(*) over (partition by model, measure) as measured,
        unnest(['choosing_survives', 'writing_loses_more']) as claim,
        unnest([writing >= 0.5, true]) as is_chosen,
        least(writing_answers, choosing_answers) as n,
        unnest([choosing, writing - choosing]) as amount,
        unnest([
            [choosing_low, choosing_high],
            -- The tasks differ, so their answers are independent.
            interval_of_difference(writing, writing_low, writing_high, choosing, choosing_low, choosing_high, 0)
        ]) as ends
    from losses
    where writing is not null and choosing is not null
),

-- All variants answer the same questions, so averaging over variants does not reduce the errors over answers.
averaged as (
    select
        model, claim, measure,
        bool_or(is_rounding) as is_rounding,
        max(measured) as measured,
        min(n) as n,
        count(*) as variants,
        avg(amount) as amount,
        avg(amount - ends[1]) as answers_below,
        avg(ends[2] - amount) as answers_above,
        t_quantile_975(count(*) - 1) * standard_error(amount) as half_width,
        -- The noise is subtracted from each loss.
        if(bool_and(has_null), 0, null) as null_amount
    from by_variant
    where is_chosen
    group by all
),

rounding as (
    select
        model,
        bool_or(is_rounding) as is_rounding
    from claim_variants
    group by all
),

-- Row i gets entry i of every unnested list.
scales as (
    select
        fits.model, fits.theorem, fits.prompts,
        unnest([fits.theorem, fits.theorem || ', logarithms']) as measure,
        unnest([fits.pearson, fits.pearson_log10]) as amount,
        unnest([fits.pearson_se, fits.pearson_log10_se]) as se,
        unnest([noise.pearson, noise.pearson_log10]) as null_amount
    from paper_fits as fits
    left join noise_fits as noise using (model, theorem)
),

-- All methods are measured on the same prompts, so averaging over methods does not reduce the errors.
fits as (
    select
        model, measure,
        min(prompts) as n,
        count(*) as methods,
        avg(amount) as amount,
        t_quantile_975(min(prompts) - 1) * avg(se) as half_width,
        any_value(null_amount) as null_amount
    from scales
    where amount is not null
    group by all
),

unit_means as (
    select
        model, claim, measure, is_noise, units,
        bool_or(is_rounding) as is_rounding,
        max(variants) as variants,
        mean_over_units(amount) as average,
        wilson_interval(sum(amount), count(amount)) as share_ends
    from claim_units
    group by all
    having count(amount) > 0
),

-- Numbers that the noise variant also has. Only the prompts are a sample; the sublayers of a model are not.
with_noise as (
    select
        model,
        'softmax_amplifies' as claim,
        lens as measure,
        is_noise,
        prompts as n,
        'prompts' as units,
        'prompts: ' || prompts || ', sublayers: ' || sublayers as rests_on,
        is_rounding,
        share_amplified as amount,
        share_amplified_low as amount_low,
        share_amplified_high as amount_high
    from local_amplification

    union all

    select
        model, claim, measure, is_noise,
        average['units'] as n,
        units,
        units || ': ' || average['units'] || ', variants: ' || variants as rests_on,
        is_rounding,
        average['mean'] as amount,
        if(units = 'questions', share_ends[1], average['mean'] - average['half_width']) as amount_low,
        if(units = 'questions', share_ends[2], average['mean'] + average['half_width']) as amount_high
    from unit_means
)

select
    model, claim, measure, n,
    'answers' as units,
    'answers: ' || n || ', variants: ' || variants || if(variants < measured, ' of ' || measured, '') as rests_on,
    is_rounding, amount,
    amount - sqrt(answers_below ** 2 + half_width ** 2) as amount_low,
    amount + sqrt(answers_above ** 2 + half_width ** 2) as amount_high,
    null_amount,
    cast(null as double) as null_amount_high
from averaged

union all

select
    fits.model,
    'second_order_fits' as claim,
    fits.measure, fits.n,
    'prompts' as units,
    'prompts: ' || fits.n || ', methods: ' || fits.methods as rests_on,
    rounding.is_rounding, fits.amount,
    interval_of_correlation(fits.amount, fits.half_width)[1] as amount_low,
    interval_of_correlation(fits.amount, fits.half_width)[2] as amount_high,
    fits.null_amount,
    cast(null as double) as null_amount_high
from fits
inner join rounding using (model)

union all

select
    pruned.model, pruned.claim, pruned.measure, pruned.n, pruned.units, pruned.rests_on, pruned.is_rounding,
    pruned.amount, pruned.amount_low, pruned.amount_high,
    noise.amount as null_amount,
    noise.amount_high as null_amount_high
from with_noise as pruned
left join with_noise as noise
    on
        pruned.model = noise.model and pruned.claim = noise.claim and pruned.measure = noise.measure and noise.is_noise
        -- Rounding flips few texts; a mean over fewer than 6 prompts is not used as a null.
        and (noise.n >= 6 or noise.claim not in ('own_text_is_further', 'free_running_exceeds_fork'))
where not pruned.is_noise
