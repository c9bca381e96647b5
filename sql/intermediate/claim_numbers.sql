-- The number behind each claim of the paper, on each model, with its interval.
-- grain: one row per model × claim × measure.
-- key: model, claim, measure
-- inputs: task_losses, paper_fits, transitions_at_reference, options_at_reference, token_trace
-- how to read: paper_claims states the claims, their thresholds, and how each number and its interval is made.
-- reason: paper_claims only compares these numbers with its thresholds. The view is long because each claim has its own
--   way of counting.
-- columns:
--   claim: choosing_survives, writing_loses_more, second_order_fits, softmax_amplifies, choice_is_kept,
--     options_move_less, options_in_the_tail or decoding_feeds_back [label]
--   measure: score or agreement of tasks, a theorem, a lens; all where there is one way to measure it [label]
--   n: Number of independent units that the number rests on [units]
--   units: answers, prompts or questions [label]
--   rests_on: Number of units, and of what was measured on all of them
--   amount: The number [share; correlation for second_order_fits]
--   amount_low: Lower end of its 95 % interval; NULL where the uncertainty is not known [as amount]
--   amount_high: Upper end of its 95 % interval; NULL where the uncertainty is not known [as amount]
with

losses as (
    select
        model,
        recipe,
        measure,
        max(loss_beyond_noise) filter (where kind = 'generative') as writing,
        max(loss_beyond_noise_low) filter (where kind = 'generative') as writing_low,
        max(loss_beyond_noise_high) filter (where kind = 'generative') as writing_high,
        max(n_answers) filter (where kind = 'generative') as writing_answers,
        max(loss_beyond_noise) filter (where kind = 'non_generative') as choosing,
        max(loss_beyond_noise_low) filter (where kind = 'non_generative') as choosing_low,
        max(loss_beyond_noise_high) filter (where kind = 'non_generative') as choosing_high,
        max(n_answers) filter (where kind = 'non_generative') as choosing_answers
    from task_losses
    group by model, recipe, measure
),

-- Lists unnested in one select are expanded in parallel.
broken as (
    select
        model,
        measure,
        unnest(['choosing_survives', 'writing_loses_more']) as claim,
        least(writing_answers, choosing_answers) as n,
        unnest([choosing, writing - choosing]) as amount,
        unnest([
            [choosing_low, choosing_high],
            -- Different tasks, and so different answers.
            interval_of_difference(writing, writing_low, writing_high, choosing, choosing_low, choosing_high, 0)
        ]) as ends
    from losses
    where writing >= 0.5 and choosing is not null
),

-- Variants answer the same questions, so that the errors over answers do not average out between them.
averaged as (
    select
        model,
        claim,
        measure,
        min(n) as n,
        count(*) as variants,
        avg(amount) as amount,
        avg(amount - ends[1]) as answers_below,
        avg(ends[2] - amount) as answers_above,
        t_quantile_975(count(*) - 1) * standard_error(amount) as half_width_of_variants
    from broken
    group by model, claim, measure
),

task_claims as (
    select
        model,
        claim,
        measure,
        n,
        'answers' as units,
        'answers: ' || n || ', variants: ' || variants as rests_on,
        amount,
        amount - sqrt(answers_below ** 2 + half_width_of_variants ** 2) as amount_low,
        amount + sqrt(answers_above ** 2 + half_width_of_variants ** 2) as amount_high
    from averaged
),

-- Methods are measured on the same prompts, so that their errors do not average out.
fits as (
    select
        model,
        theorem,
        min(prompts) as n,
        count(*) as methods,
        avg(pearson_log10) as amount,
        t_quantile_975(min(prompts) - 1) * avg(pearson_log10_se) as half_width
    from paper_fits
    where pearson_log10 is not null
    group by model, theorem
),

fit_claims as (
    select
        model,
        'second_order_fits' as claim,
        theorem as measure,
        n,
        'prompts' as units,
        'prompts: ' || n || ', methods: ' || methods as rests_on,
        amount,
        interval_of_correlation(amount, half_width)[1] as amount_low,
        interval_of_correlation(amount, half_width)[2] as amount_high
    from fits
),

sublayers_by_variant as (
    select
        model,
        recipe,
        prompt_id,
        lens,
        layer,
        sublayer,
        avg(one_minus_cos_p) > avg(one_minus_cos_z) as is_so
    from transitions_at_reference
    where is_changed and scope = 'local' and recipe <> 'dense'
    group by model, recipe, prompt_id, lens, layer, sublayer
),

sublayers as (
    select
        model,
        lens,
        prompt_id,
        layer,
        sublayer,
        avg(cast(is_so as integer)) > 0.5 as is_so
    from sublayers_by_variant
    group by model, lens, prompt_id, layer, sublayer
),

sublayer_shares as (
    select
        model,
        lens,
        prompt_id,
        count(*) as sublayers,
        count(*) filter (where is_so) as times
    from sublayers
    group by model, lens, prompt_id
),

-- The sublayers of one model are no sample of anything: the prompts are.
sublayer_claims as (
    select
        model,
        'softmax_amplifies' as claim,
        lens as measure,
        count(*) as n,
        'prompts' as units,
        'prompts: ' || count(*) || ', sublayers: ' || max(sublayers) as rests_on,
        sum(times) / sum(sublayers) as amount,
        wilson_interval_over_clusters(times, sublayers)[1] as amount_low,
        wilson_interval_over_clusters(times, sublayers)[2] as amount_high
    from sublayer_shares
    group by model, lens
),

questions as (
    select
        options.model,
        count(*) as variants,
        avg(cast(options.is_argmax_same as integer)) > 0.5 as is_kept,
        avg(cast(options.kl_options_dense_pruned_nats < options.kl_dense_pruned_nats as integer)) > 0.5 as is_less,
        any_value(options.mass_dense) < 0.01 as is_tail
    from options_at_reference as options
    where options.recipe <> 'dense'
    group by options.model, options.prompt_id
),

-- Up to the first flip both models read the same tokens, so that the two KLs differ by rounding alone.
trajectories as (
    select
        model,
        recipe,
        prompt_id,
        median(kl_free_running_nats) > median(kl_teacher_forced_nats) as is_further
    from token_trace
    where
        recipe <> 'dense'
        and step > first_flip_step
        and kl_free_running_nats is not null
        and kl_teacher_forced_nats is not null
    group by model, recipe, prompt_id
),

texts as (
    select
        model,
        count(*) as variants,
        avg(cast(is_further as integer)) > 0.5 as is_so
    from trajectories
    group by model, prompt_id
),

counted as (
    select
        model,
        variants,
        unnest(['choice_is_kept', 'options_move_less', 'options_in_the_tail']) as claim,
        'questions' as units,
        unnest([is_kept, is_less, is_tail]) as is_so
    from questions

    union all

    select
        model,
        variants,
        'decoding_feeds_back' as claim,
        'prompts' as units,
        is_so
    from texts
),

share_claims as (
    select
        model,
        claim,
        'all' as measure,
        count(*) as n,
        units,
        units || ': ' || count(*) || ', variants: ' || max(variants) as rests_on,
        count(*) filter (where is_so) / count(*) as amount,
        wilson_interval(count(*) filter (where is_so), count(*))[1] as amount_low,
        wilson_interval(count(*) filter (where is_so), count(*))[2] as amount_high
    from counted
    group by model, claim, units
),

claims as (
    select * from task_claims
    union all by name
    select * from fit_claims
    union all by name
    select * from sublayer_claims
    union all by name
    select * from share_claims
)

select
    model,
    claim,
    measure,
    n,
    units,
    rests_on,
    amount,
    amount_low,
    amount_high
from claims
