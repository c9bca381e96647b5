-- What is known of each pruned variant's losses in writing and in choosing: tasks, tokens, options and predictions.
-- grain: one row per pruned variant × kind × evidence.
-- key: model, recipe, kind, evidence
-- inputs: task_losses, loss_predictions, decoding_at_reference, options_at_reference, stg_decoding_steps,
--   stg_option_subspace, noise_variants, top1_changes
-- how to read: a loss is that beyond the noise floor: the loss of the dense model computed in another way (bfloat16,
--   other order of sums), the noise variant that loses most, is subtracted, paired by prompt, question or answer.
--   score and agreement are the losses of task_losses. tokens: share of the teacher-forced tokens, up to the end, whose
--   most likely token differs. options: share of the study's questions whose most likely option differs. prediction:
--   that of loss_predictions with the narrowest interval, which holds for 9 of 10 variants; only `prunescope advise`
--   uses it. Intervals of tokens are, on each side, the wider of Student's t over prompts (of the paired difference)
--   and Wilson's over clusters (of the share, top1_changes); those of options are Wilson's over questions, with a
--   floor interval_of_difference of both shares as if independent, which is rather too wide.
-- reason: variant_verdict and `prunescope advise` choose among this evidence by one rule. The view is long because the
--   evidence comes from four tables.
-- columns:
--   kind: writing or choosing [label]
--   evidence: score, agreement, tokens, options or prediction [label]
--   loss: Loss beyond the noise floor [share]
--   loss_low: Lower end of its 95 % interval; NULL where it is not known [share]
--   loss_high: Upper end of it [share]
--   n_units: Answers, prompts or questions that it rests on; of a prediction the scored variants [units]
--   unit: answers, prompts, questions or variants [label]
with

tasks as (
    select
        model,
        recipe,
        if(kind = 'generative', 'writing', 'choosing') as kind,
        measure as evidence,
        loss_beyond_noise as loss,
        loss_beyond_noise_low as loss_low,
        loss_beyond_noise_high as loss_high,
        n_answers as n_units,
        'answers' as unit
    from task_losses
),

predictions as (
    select
        model,
        recipe,
        if(kind = 'generative', 'writing', 'choosing') as kind,
        'prediction' as evidence,
        predicted_loss as loss,
        predicted_loss_low as loss_low,
        predicted_loss_high as loss_high,
        n_variants as n_units,
        'variants' as unit
    from loss_predictions
    where predicted_loss_high is not null
    -- Right answers before the dense model's own ones, then the probe with the smallest error on other models.
    qualify row_number() over (partition by model, recipe, kind order by measure desc, half_width asc, probe asc) = 1
),

forced as (
    select
        model,
        recipe,
        prompt_id,
        temperature,
        step,
        not is_top1_same as is_changed
    from decoding_at_reference
    where trajectory = 'teacher_forced'
),

-- The dense rows of `forced` select the same steps of a noise variant.
noise_tokens as (
    select
        steps.model,
        steps.recipe,
        steps.prompt_id,
        steps.step,
        not steps.is_top1_same as is_changed
    from stg_decoding_steps as steps
    inner join noise_variants
        on steps.model = noise_variants.model and steps.recipe = noise_variants.recipe
    inner join forced as dense
        on
            steps.model = dense.model
            and dense.recipe = 'dense'
            and steps.prompt_id = dense.prompt_id
            and steps.step = dense.step
            and steps.temperature = dense.temperature
    where steps.trajectory = 'teacher_forced'
),

token_floors as (
    select
        model,
        recipe
    from noise_tokens
    group by model, recipe
    qualify row_number() over (partition by model order by avg(cast(is_changed as integer)) desc, recipe) = 1
),

prompts as (
    select
        forced.model,
        forced.recipe,
        forced.prompt_id,
        count(*) as tokens,
        count_if(forced.is_changed) as changed,
        count_if(coalesce(noise_tokens.is_changed, false)) as changed_by_noise
    from forced
    left join token_floors
        on forced.model = token_floors.model
    left join noise_tokens
        on
            token_floors.model = noise_tokens.model
            and token_floors.recipe = noise_tokens.recipe
            and forced.prompt_id = noise_tokens.prompt_id
            and forced.step = noise_tokens.step
    where forced.recipe <> 'dense'
    group by forced.model, forced.recipe, forced.prompt_id
),

weighed as (
    select
        *,
        (
            changed - changed_by_noise
            - tokens * sum(changed - changed_by_noise) over of_variant / sum(tokens) over of_variant
        )
        / sum(tokens) over of_variant as influence
    from prompts
    window of_variant as (partition by model, recipe)
),

token_sums as (
    select
        model,
        recipe,
        count(*) as n_prompts,
        sum(changed - changed_by_noise) / sum(tokens) as loss,
        half_width_over_clusters(influence) as by_prompts
    from weighed
    group by model, recipe
),

tokens as (
    select
        token_sums.model,
        token_sums.recipe,
        'writing' as kind,
        'tokens' as evidence,
        token_sums.loss,
        token_sums.loss
        - greatest(coalesce(token_sums.by_prompts, 0), changes.top1_change - changes.top1_change_low) as loss_low,
        token_sums.loss
        + greatest(coalesce(token_sums.by_prompts, 0), changes.top1_change_high - changes.top1_change) as loss_high,
        token_sums.n_prompts as n_units,
        'prompts' as unit
    from token_sums
    inner join top1_changes as changes
        on token_sums.model = changes.model and token_sums.recipe = changes.recipe
),

noise_options as (
    select
        options.model,
        options.recipe,
        options.prompt_id,
        not options.is_argmax_same as is_changed
    from stg_option_subspace as options
    inner join noise_variants
        on options.model = noise_variants.model and options.recipe = noise_variants.recipe
    inner join options_at_reference as dense
        on
            options.model = dense.model
            and dense.recipe = 'dense'
            and options.prompt_id = dense.prompt_id
    -- The order of options does not depend on the temperature.
    qualify row_number() over (
        partition by options.model, options.recipe, options.prompt_id order by options.temperature
    ) = 1
),

option_floors as (
    select
        model,
        recipe
    from noise_options
    group by model, recipe
    qualify row_number() over (partition by model order by avg(cast(is_changed as integer)) desc, recipe) = 1
),

question_sums as (
    select
        options.model,
        options.recipe,
        count(*) as n_questions,
        count_if(not options.is_argmax_same) as changed,
        count_if(coalesce(noise_options.is_changed, false)) as changed_by_noise,
        wilson_interval(count_if(not options.is_argmax_same), count(*)) as ends,
        -- Noise that changes no choice corrects nothing, and adds no error.
        case
            when count_if(coalesce(noise_options.is_changed, false)) = 0 then [0.0, 0.0]
            else wilson_interval(count_if(coalesce(noise_options.is_changed, false)), count(*))
        end as noise_ends
    from options_at_reference as options
    left join option_floors
        on options.model = option_floors.model
    left join noise_options
        on
            option_floors.model = noise_options.model
            and option_floors.recipe = noise_options.recipe
            and options.prompt_id = noise_options.prompt_id
    where options.recipe <> 'dense'
    group by options.model, options.recipe
),

question_losses as (
    select
        model,
        recipe,
        n_questions,
        (changed - changed_by_noise) / n_questions as loss,
        interval_of_difference(
            changed / n_questions, ends[1], ends[2], changed_by_noise / n_questions, noise_ends[1], noise_ends[2], 0
        ) as ends
    from question_sums
),

options as (
    select
        model,
        recipe,
        'choosing' as kind,
        'options' as evidence,
        loss,
        ends[1] as loss_low,
        ends[2] as loss_high,
        n_questions as n_units,
        'questions' as unit
    from question_losses
),

evidence_of_all as (
    select * from tasks
    union all by name
    select * from predictions
    union all by name
    select * from tokens
    union all by name
    select * from options
)

select
    model,
    recipe,
    kind,
    evidence,
    loss,
    loss_low,
    loss_high,
    n_units,
    unit
from evidence_of_all
