-- What is known of the losses of each pruned variant: of tokens, right answers, choices and texts.
-- grain: one row per pruned variant × measure × evidence.
-- key: model, recipe, measure, evidence
-- inputs: task_losses, loss_predictions, decoding_at_reference, stg_decoding_steps, stg_generations,
--   stg_option_subspace, noise_variants
-- how to read: a loss is that beyond its null: the loss of the dense model computed in another way (bfloat16, other
--   order of sums), of the noise variant that loses most, is subtracted, paired by prompt, question or answer; if no
--   noise was measured, that of the dense model itself. score and agreement are the losses of task_losses. tokens:
--   share of the teacher-forced tokens, up to the end, whose most likely token differs. texts: share of the variant's
--   own texts that loop or end early: before half of the dense text's length, and without an answer. graded: right
--   answers to the study's prompts (writing) and questions (choosing), gained ones set against lost ones, as a share
--   of the dense model's right ones above a guess. A guess is right in 1 of k options. Prompts with options, or those
--   without, are left out if the dense model is not right beyond a guess in them. options: share of the questions
--   without a known right option whose most likely option differs; left out if a constant choice, the dense model's
--   commonest, might lose no more than verdict_tolerance, because keeping it then shows nothing. prediction: that of
--   loss_predictions with the narrowest interval, which holds for 9 of 10 variants. Intervals are at 95 %, and on each
--   side the wider of Student's t over the units, and Wilson's of what is lost, clustered by unit.
-- reason: variant_verdict and `prunescope advise` choose among this evidence by one rule.
-- columns:
--   measure: fidelity (same tokens), writing and choosing (right answers), alive (no loop and no early end) [label]
--   evidence: tokens, score, graded, agreement, options, texts or prediction [label]
--   loss: Loss beyond its null [share]
--   loss_low: Lower end of its 95 % interval; NULL if it is not known [share]
--   loss_high: Upper end of it [share]
--   lost: Tokens, answers, choices or texts that are lost, those of the null included; NULL of tasks
--   total: Those that could be lost; NULL of tasks
--   n_units: Prompts, questions or answers that it rests on: of written answers the dense model's right ones, of a
--     prediction the scored variants [units]
with units as (
    select
        steps.model, steps.recipe,
        'fidelity' as measure,
        'tokens' as evidence,
        steps.prompt_id as unit,
        count(*) as weight,
        count_if(not steps.is_top1_same) as lost
    from stg_decoding_steps as steps
    inner join decoding_at_reference as dense using (model, prompt_id, trajectory, step, temperature)
    where steps.trajectory = 'teacher_forced' and dense.recipe = 'dense'
    group by steps.model, steps.recipe, steps.prompt_id

    union all

    -- The options of a prompt are the same at each temperature.
    select distinct
        texts.model, texts.recipe,
        unnest(['alive', 'writing']) as measure,
        unnest(['texts', 'graded']) as evidence,
        texts.prompt_id as unit,
        unnest([1, cast(dense.is_correct as integer) - coalesce(1 / len(asked.options), 0)]) as weight,
        unnest([
            cast(
                texts.collapse_step is not null
                or coalesce(
                    texts.answer is null and 2 * texts.end_step < coalesce(dense.end_step, len(dense.token_ids)), false
                ) as integer
            ),
            cast(dense.is_correct as integer) - cast(texts.is_correct as integer)
        ]) as lost
    from stg_generations as texts
    inner join stg_generations as dense using (model, prompt_id)
    left join stg_option_subspace as asked
        on dense.model = asked.model and dense.recipe = asked.recipe and dense.prompt_id = asked.prompt_id
    where dense.recipe = 'dense'

    union all

    -- The order of options does not depend on the temperature.
    select
        model, recipe,
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

-- Weights above a guess among options are not whole numbers; what can be lost above it counts alike for all questions.
weighed as (
    select
        model, recipe, measure, evidence, unit,
        case
            when evidence = 'options' then 1 when weight = round(weight) then weight else avg(weight) over alike
        end as weight,
        lost
    from units
    where lost is not null
    window alike as (partition by model, recipe, measure, evidence, weight = round(weight))
    qualify
        wilson_interval(count_if(weight > 0) over alike, count(*) over alike)[1]
        > count_if(weight > 0) over alike / count(*) over alike - avg(weight) over alike
),

floors as (
    select beside.model, beside.measure, beside.evidence, beside.recipe
    from weighed as beside
    left join noise_variants as noise using (model, recipe)
    where beside.recipe = 'dense' or noise.recipe is not null
    group by beside.model, beside.measure, beside.evidence, beside.recipe
    qualify row_number() over (
        partition by beside.model, beside.measure, beside.evidence
        order by sum(beside.lost) / sum(beside.weight) desc, beside.recipe
    ) = 1
),

floor_units as (
    select weighed.*
    from weighed
    semi join floors using (model, recipe, measure, evidence)
),

paired as (
    select
        own.*,
        own.lost - coalesce(beside.lost, 0) as net
    from weighed as own
    anti join noise_variants using (model, recipe)
    left join floor_units as beside using (model, measure, evidence, unit)
    where own.recipe <> 'dense'
),

sums as (
    select
        model, recipe, measure, evidence,
        cast(sum(lost) as double) as lost,
        cast(sum(weight) as double) as total,
        cast(count_if(weight > 0) as bigint) as n_units,
        sum(net) / sum(weight) as loss,
        coalesce(half_width_of_mean(net, weight), 0) as by_spread,
        sum(greatest(lost, 0)) / sum(weight) as lost_share,
        wilson_interval_over_clusters(greatest(lost, 0), weight) as ends
    from paired
    group by model, recipe, measure, evidence
)

select
    model, recipe, measure, evidence, loss,
    loss - greatest(by_spread, lost_share - ends[1]) as loss_low,
    -- No more can be lost than all; a variant that is worse than a guess has a loss above 1.
    least(loss + greatest(by_spread, ends[2] - lost_share), greatest(loss, 1)) as loss_high,
    lost, total, n_units
from sums

union all

select
    model, recipe,
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
    -- Right answers before the dense model's own ones, then the probe with the smallest error on other models.
    qualify row_number() over (
        partition by model, recipe, kind order by loss_predictions.measure desc, half_width asc, probe asc
    ) = 1
)
