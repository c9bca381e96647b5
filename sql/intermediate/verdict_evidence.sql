-- The losses of each pruned variant in tokens, right answers, choices and texts, each from every source of evidence,
-- and for texts that think also in the thinking and the answer alone.
-- grain: one row per pruned variant × part × measure × evidence.
-- key: model, recipe, part, measure, evidence
-- inputs: task_losses, loss_predictions, decoding_at_reference, stg_decoding_steps, stg_generations,
--   stg_option_subspace, noise_variants
-- how to read: a loss is the variant's minus that of its null, paired by prompt, question or answer. The null is the
--   noise variant that loses most (the dense model in bfloat16, or with another order of sums); if no noise was
--   measured, it is the dense model itself. score and agreement are the losses of task_losses. tokens is the share of
--   teacher-forced tokens, up to the end, whose most likely token differs. texts is the share of the variant's own
--   texts that loop or end early: before half of the dense text's length, and without an answer. graded is about right
--   answers to the study's prompts (writing) and questions (choosing): lost minus gained ones, as a share of the dense
--   model's right ones above a guess. A guess is right in 1 of k options. Prompts with options, and prompts without,
--   are left out if the dense model is not right beyond a guess in them. options is the share of questions without a
--   known right option whose most likely option differs. It is left out if always choosing the dense model's commonest
--   option might lose no more than verdict_tolerance, because keeping the choices then shows nothing. prediction is the
--   one of loss_predictions with the narrowest interval, which holds for 9 of 10 variants. Intervals are at 95 %. Each
--   side is the wider of two: Student's t over the units, and Wilson's of what is lost, clustered by unit. The parts
--   thinking and answer are judged in the prompts whose dense text thinks: tokens up to the dense text's thinking_steps
--   and after them, loops that are complete in the part, ends before half of the dense part, and right answers in the
--   thinking (thinking_answer) and after it. A text that is cut off while it thinks says nothing about the life of its
--   answer.
-- reason: variant_verdict and `prunescope advise` choose among this evidence by one rule.
-- columns:
--   part: whole text, thinking or answer [label]
--   measure: fidelity (same tokens), writing and choosing (right answers), alive (no loop and no early end) [label]
--   evidence: tokens, score, graded, agreement, options, texts or prediction [label]
--   loss: Loss beyond its null [share]
--   loss_low: Lower end of its 95 % interval; NULL if it is not known [share]
--   lost: Tokens, answers, choices or texts that are lost, including those that the null loses; NULL for tasks
--   total: Those that could be lost; NULL for tasks
--   n_units: Prompts, questions or answers behind the loss: for written answers the dense model's right ones, for a
--     prediction the scored variants [units]
with tokens as (
    select
        steps.model, steps.recipe, steps.prompt_id,
        cast(not steps.is_top1_same as integer) as is_lost,
        -- NULL without thinking.
        steps.step < nullif(texts.thinking_steps, 0) as is_thinking
    from stg_decoding_steps as steps
    inner join decoding_at_reference as dense using (model, prompt_id, trajectory, step, temperature)
    left join stg_generations as texts
        on dense.model = texts.model and dense.recipe = texts.recipe and dense.prompt_id = texts.prompt_id
    where steps.trajectory = 'teacher_forced' and dense.recipe = 'dense'
),

-- Each text as a whole, its thinking, and what follows it; the latter has no length without thinking.
texts as (
    select
        model, recipe, prompt_id, answer,
        unnest(['whole', 'thinking', 'answer']) as part,
        unnest([
            coalesce(end_step, len(token_ids)),
            thinking_steps,
            coalesce(end_step, len(token_ids)) - nullif(thinking_steps, 0)
        ]) as length,
        -- NULL if the text is cut off there.
        unnest([end_step, thinking_steps, end_step - thinking_steps]) as end_step,
        unnest([
            collapse_step is not null,
            coalesce(collapse_step < thinking_steps, false),
            case
                when end_step is not null or thinking_steps < len(token_ids)
                    then coalesce(collapse_step >= thinking_steps, false)
            end
        ]) as is_loop,
        unnest([
            is_correct, if(is_correct is null, null, coalesce(thinking_answer = gold, false)), is_correct
        ]) as is_correct
    from stg_generations
),

units as (
    select
        model, recipe,
        unnest(['whole', 'thinking', 'answer']) as part,
        'fidelity' as measure,
        'tokens' as evidence,
        prompt_id as unit,
        unnest([count(*), count_if(is_thinking), count_if(not is_thinking)]) as weight,
        -- A sum over no token is NULL.
        unnest([
            sum(is_lost), sum(is_lost) filter (where is_thinking), sum(is_lost) filter (where not is_thinking)
        ]) as lost
    from tokens
    group by model, recipe, prompt_id

    union all

    -- The options of a prompt are the same at each temperature.
    select distinct
        texts.model, texts.recipe, texts.part,
        unnest(['alive', 'writing']) as measure,
        unnest(['texts', 'graded']) as evidence,
        texts.prompt_id as unit,
        unnest([1, cast(dense.is_correct as integer) - coalesce(1 / len(choices.options), 0)]) as weight,
        unnest([
            cast(
                texts.is_loop
                or coalesce(texts.answer is null and 2 * texts.end_step < dense.length, false) as integer
            ),
            cast(dense.is_correct as integer) - cast(texts.is_correct as integer)
        ]) as lost
    from texts
    inner join texts as dense using (model, prompt_id, part)
    left join stg_option_subspace as choices
        on dense.model = choices.model and dense.recipe = choices.recipe and dense.prompt_id = choices.prompt_id
    where dense.recipe = 'dense' and (texts.part = 'whole' or dense.length > 0)

    union all

    -- The order of options does not depend on the temperature.
    select
        model, recipe,
        'whole' as part,
        'choosing' as measure,
        if(gold is null, 'options', 'graded') as evidence,
        prompt_id as unit,
        coalesce(
            cast(argmax_dense = gold as integer) - 1 / len(options),
            cast(argmax_dense <> mode(argmax_dense) over (partition by model, recipe, gold) as integer)
            - verdict_tolerance()
        ) as weight,
        coalesce(
            cast(argmax_dense = gold as integer) - cast(argmax_pruned = gold as integer),
            cast(not is_argmax_same as integer)
        ) as lost
    from stg_option_subspace
    qualify row_number() over (partition by model, recipe, prompt_id order by temperature) = 1
),

-- Above a guess among options, weights are fractions. They are replaced by their mean, so every question counts the
-- same.
weighted as (
    select
        model, recipe, part, measure, evidence, unit,
        case
            when evidence = 'options' then 1 when weight = round(weight) then weight else avg(weight) over alike
        end as weight,
        lost
    from units
    where lost is not null
    window alike as (partition by model, recipe, part, measure, evidence, weight = round(weight))
    qualify
        wilson_interval(count_if(weight > 0) over alike, count(*) over alike)[1]
        > count_if(weight > 0) over alike / count(*) over alike - avg(weight) over alike
),

nulls as (
    select weighted.model, weighted.part, weighted.measure, weighted.evidence, weighted.recipe
    from weighted
    left join noise_variants using (model, recipe)
    where weighted.recipe = 'dense' or noise_variants.recipe is not null
    group by weighted.model, weighted.part, weighted.measure, weighted.evidence, weighted.recipe
    qualify row_number() over (
        partition by weighted.model, weighted.part, weighted.measure, weighted.evidence
        order by sum(weighted.lost) / sum(weighted.weight) desc, weighted.recipe
    ) = 1
),

null_units as (
    select weighted.*
    from weighted
    semi join nulls using (model, recipe, part, measure, evidence)
),

paired as (
    select
        own.*,
        own.lost - coalesce(null_units.lost, 0) as net
    from weighted as own
    anti join noise_variants using (model, recipe)
    left join null_units using (model, part, measure, evidence, unit)
    where own.recipe <> 'dense'
),

sums as (
    select
        model, recipe, part, measure, evidence,
        cast(sum(lost) as double) as lost,
        cast(sum(weight) as double) as total,
        cast(count_if(weight > 0) as bigint) as n_units,
        sum(net) / sum(weight) as loss,
        coalesce(half_width_of_mean(net, weight), 0) as by_spread,
        sum(greatest(lost, 0)) / sum(weight) as lost_share,
        wilson_interval_over_clusters(greatest(lost, 0), weight) as ends
    from paired
    group by model, recipe, part, measure, evidence
)

select
    model, recipe, part, measure, evidence, loss,
    loss - greatest(by_spread, lost_share - ends[1]) as loss_low,
    -- No more can be lost than all; a variant that is worse than a guess has a loss above 1.
    least(loss + greatest(by_spread, ends[2] - lost_share), greatest(loss, 1)) as loss_high,
    lost, total, n_units
from sums

union all

select
    model, recipe,
    'whole' as part,
    if(kind = 'generative', 'writing', 'choosing') as measure,
    measure as evidence,
    loss_beyond_noise as loss,
    loss_beyond_noise_low as loss_low,
    loss_beyond_noise_high as loss_high,
    null as lost,
    null as total,
    n_answers as n_units
from task_losses

union all

(
    select
        model, recipe,
        'whole' as part,
        if(kind = 'generative', 'writing', 'choosing') as measure,
        'prediction' as evidence,
        predicted_loss as loss,
        predicted_loss_low as loss_low,
        predicted_loss_high as loss_high,
        null as lost,
        null as total,
        n_variants as n_units
    from loss_predictions
    where predicted_loss_high is not null
    -- Right answers before the dense model's own, then the probe with the smallest error on other models.
    qualify row_number() over (
        partition by model, recipe, kind order by loss_predictions.measure desc, half_width asc, probe asc
    ) = 1
)
