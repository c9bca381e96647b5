-- The number behind each claim of the paper, on each model, with its interval and its null.
-- grain: one row per model × claim × measure.
-- key: model, claim, measure
-- inputs: claim_variants, task_losses, paper_fits, noise_fits, local_amplification, stg_option_subspace,
--   variant_temperatures, trajectory_gaps
-- how to read: paper_claims states the claims, their thresholds, and how each number and its interval is made.
-- reason: paper_claims only compares these numbers with its thresholds. The view is long because each claim has its own
--   way of counting.
-- columns:
--   claim: choosing_survives, writing_loses_more, second_order_fits, softmax_amplifies, choice_is_kept,
--     options_move_less, options_in_the_tail, own_text_is_further or free_running_exceeds_fork [label]
--   measure: score or agreement of tasks, a theorem, a lens, a scale; all where there is one way to measure it [label]
--   n: Number of independent units that the number rests on [units]
--   units: answers, prompts or questions [label]
--   rests_on: Number of units, and of what was measured on all of them
--   is_rounding: Whether no variant of the model moves further than rounding
--   amount: The number [share, correlation, nats or ln ratio]
--   amount_low: Lower end of its 95 % interval; NULL where the uncertainty is not known [as amount]
--   amount_high: Upper end of its 95 % interval; NULL where the uncertainty is not known [as amount]
--   null_amount: The same number of the noise variant; NULL where it was not measured [as amount]
--   null_amount_high: Upper end of its 95 % interval; NULL where it has none of its own [as amount]
with

losses as (
    select
        losses.model,
        losses.recipe,
        losses.measure,
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

-- Lists unnested in one select are expanded in parallel.
by_variant as (
    select
        model,
        measure,
        is_rounding,
        has_null,
        count(*) over (partition by model, measure) as measured,
        unnest(['choosing_survives', 'writing_loses_more']) as claim,
        unnest([writing >= 0.5, true]) as is_chosen,
        least(writing_answers, choosing_answers) as n,
        unnest([choosing, writing - choosing]) as amount,
        unnest([
            [choosing_low, choosing_high],
            -- Different tasks, and so different answers.
            interval_of_difference(writing, writing_low, writing_high, choosing, choosing_low, choosing_high, 0)
        ]) as ends
    from losses
    where writing is not null and choosing is not null
),

-- Variants answer the same questions, so that the errors over answers do not average out between them.
averaged as (
    select
        model,
        claim,
        measure,
        bool_or(is_rounding) as is_rounding,
        max(measured) as measured,
        min(n) as n,
        count(*) as variants,
        avg(amount) as amount,
        avg(amount - ends[1]) as answers_below,
        avg(ends[2] - amount) as answers_above,
        t_quantile_975(count(*) - 1) * standard_error(amount) as half_width,
        -- The noise is taken off each loss.
        if(bool_and(has_null), 0, null) as null_amount
    from by_variant
    where is_chosen
    group by all
),

task_claims as (
    select
        model,
        claim,
        measure,
        n,
        'answers' as units,
        'answers: ' || n || ', variants: ' || variants || if(variants < measured, ' of ' || measured, '') as rests_on,
        is_rounding,
        amount,
        amount - sqrt(answers_below ** 2 + half_width ** 2) as amount_low,
        amount + sqrt(answers_above ** 2 + half_width ** 2) as amount_high,
        null_amount,
        cast(null as double) as null_amount_high
    from averaged
),

rounding as (
    select
        model,
        bool_or(is_rounding) as is_rounding
    from claim_variants
    group by all
),

-- Lists unnested in one select are expanded in parallel.
scales as (
    select
        fits.model,
        fits.theorem,
        fits.prompts,
        unnest([fits.theorem, fits.theorem || ', logarithms']) as measure,
        unnest([fits.pearson, fits.pearson_log10]) as amount,
        unnest([fits.pearson_se, fits.pearson_log10_se]) as se,
        unnest([noise.pearson, noise.pearson_log10]) as null_amount
    from paper_fits as fits
    left join noise_fits as noise using (model, theorem)
),

-- Methods are measured on the same prompts, so that their errors do not average out.
fits as (
    select
        model,
        measure,
        min(prompts) as n,
        count(*) as methods,
        avg(amount) as amount,
        t_quantile_975(min(prompts) - 1) * avg(se) as half_width,
        any_value(null_amount) as null_amount
    from scales
    where amount is not null
    group by all
),

fit_claims as (
    select
        fits.model,
        'second_order_fits' as claim,
        fits.measure,
        fits.n,
        'prompts' as units,
        'prompts: ' || fits.n || ', methods: ' || fits.methods as rests_on,
        rounding.is_rounding,
        fits.amount,
        interval_of_correlation(fits.amount, fits.half_width)[1] as amount_low,
        interval_of_correlation(fits.amount, fits.half_width)[2] as amount_high,
        fits.null_amount,
        cast(null as double) as null_amount_high
    from fits
    inner join rounding using (model)
),

-- The sublayers of one model are no sample of anything: the prompts are.
amplification_claims as (
    select
        pruned.model,
        'softmax_amplifies' as claim,
        pruned.lens as measure,
        pruned.prompts as n,
        'prompts' as units,
        'prompts: ' || pruned.prompts || ', sublayers: ' || pruned.sublayers as rests_on,
        pruned.is_rounding,
        pruned.share_amplified as amount,
        pruned.share_amplified_low as amount_low,
        pruned.share_amplified_high as amount_high,
        noise.share_amplified as null_amount,
        noise.share_amplified_high as null_amount_high
    from local_amplification as pruned
    left join local_amplification as noise
        on pruned.model = noise.model and pruned.lens = noise.lens and noise.is_noise
    where not pruned.is_noise
),

questions as (
    select
        options.model,
        variants.is_noise,
        bool_or(variants.is_rounding) as is_rounding,
        count(*) as variants,
        avg(cast(options.is_argmax_same as integer)) > 0.5 as is_kept,
        avg(
            cast(
                options.kl_options_dense_pruned_nats < kl_of_rest(
                    options.kl_dense_pruned_nats,
                    options.kl_options_dense_pruned_nats,
                    options.mass_dense,
                    options.mass_pruned
                ) as integer
            )
        ) > 0.5 as is_less,
        any_value(options.mass_dense) < 0.01 as is_tail
    from stg_option_subspace as options
    inner join variant_temperatures using (model, recipe, temperature)
    inner join claim_variants as variants using (model, recipe)
    group by options.model, variants.is_noise, options.prompt_id
),

counted as (
    select
        *,
        unnest(['choice_is_kept', 'options_move_less', 'options_in_the_tail']) as claim,
        unnest([is_kept, is_less, is_tail]) as holds
    from questions
),

question_shares as (
    select
        model,
        claim,
        is_noise,
        bool_or(is_rounding) as is_rounding,
        count(holds) as n,
        max(variants) as variants,
        count_if(holds) / count(holds) as amount,
        wilson_interval(count_if(holds), count(holds)) as ends
    from counted
    group by all
    having count(holds) > 0
),

question_claims as (
    select
        pruned.model,
        pruned.claim,
        'all' as measure,
        pruned.n,
        'questions' as units,
        'questions: ' || pruned.n || ', variants: ' || pruned.variants as rests_on,
        pruned.is_rounding,
        pruned.amount,
        pruned.ends[1] as amount_low,
        pruned.ends[2] as amount_high,
        noise.amount as null_amount,
        noise.ends[2] as null_amount_high
    from question_shares as pruned
    left join question_shares as noise
        on pruned.model = noise.model and pruned.claim = noise.claim and noise.is_noise
    where not pruned.is_noise
),

gaps as (
    select
        gaps.model,
        gaps.prompt_id,
        variants.is_noise,
        variants.is_rounding,
        unnest([
            'own_text_is_further', 'own_text_is_further', 'free_running_exceeds_fork', 'free_running_exceeds_fork'
        ]) as claim,
        unnest(['difference', 'logarithm of the ratio', 'difference', 'logarithm of the ratio']) as measure,
        unnest([
            gaps.own_minus_forced_nats, gaps.own_over_forced_ln, gaps.free_minus_fork_nats, gaps.free_over_fork_ln
        ]) as gap
    from trajectory_gaps as gaps
    inner join claim_variants as variants using (model, recipe)
),

-- All variants of a prompt together: prompts are the independent units.
prompts as (
    select
        model,
        claim,
        measure,
        is_noise,
        bool_or(is_rounding) as is_rounding,
        count(*) as variants,
        avg(gap) as gap
    from gaps
    where gap is not null
    group by model, claim, measure, is_noise, prompt_id
),

gap_means as (
    select
        model,
        claim,
        measure,
        is_noise,
        bool_or(is_rounding) as is_rounding,
        max(variants) as variants,
        mean_over_units(gap) as gap
    from prompts
    group by all
),

gap_claims as (
    select
        pruned.model,
        pruned.claim,
        pruned.measure,
        pruned.gap.units as n,
        'prompts' as units,
        'prompts: ' || pruned.gap.units || ', variants: ' || pruned.variants as rests_on,
        pruned.is_rounding,
        pruned.gap.mean as amount,
        pruned.gap.mean - pruned.gap.half_width as amount_low,
        pruned.gap.mean + pruned.gap.half_width as amount_high,
        noise.gap.mean as null_amount,
        noise.gap.mean + noise.gap.half_width as null_amount_high
    from gap_means as pruned
    left join gap_means as noise
        on
            pruned.model = noise.model
            and pruned.claim = noise.claim
            and pruned.measure = noise.measure
            and noise.is_noise
            -- Rounding makes few texts flip; a mean of fewer than 6 prompts is not used as a null.
            and noise.gap.units >= 6
    where not pruned.is_noise
),

claims as (
    select * from task_claims
    union all by name
    select * from fit_claims
    union all by name
    select * from amplification_claims
    union all by name
    select * from question_claims
    union all by name
    select * from gap_claims
)

select
    model,
    claim,
    measure,
    n,
    units,
    rests_on,
    is_rounding,
    amount,
    amount_low,
    amount_high,
    null_amount,
    null_amount_high
from claims
