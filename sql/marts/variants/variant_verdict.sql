-- What each pruned variant still bears, by what was measured of it: writing and choosing, choosing only, or neither.
-- grain: one row per pruned variant.
-- key: model, recipe
-- inputs: variant_summary, task_losses, stg_generations, decoding_at_reference
-- how to read: where tasks of both kinds were scored (basis tasks), verdict is safe where writing and choosing each
--   lose at most 0.1 in task_losses, broken where choosing loses half or more (a score that halves is gone, as q21 has
--   it), and non-generative only between them. measure is score where the dense model has both to lose, else agreement
--   with its own answers. Low and high are the loss with 1.96 standard errors (of writing at most 1, for a text cannot
--   be worse than wrong), and is_certain says that both ends of both intervals lead to the same verdict; NULL where a
--   loss has no error. Otherwise (basis generations) the study's prompts decide: broken where half or more of the
--   questions have another likeliest option, else safe where the KL at the first generated token is below 0.6 nats and
--   at most 0.1 of the tokens have another likeliest one, else non-generative only. Fewer than 3 questions cannot tell
--   the last from broken: of the three they leave only safe, which rests on what is written. Here is_certain asks the
--   same of the 95 % intervals of these three: Wilson's over the questions; Student's t over the prompts for KL, which
--   may be anything below 5 prompts; for tokens Student's t, or Wilson's over the tokens where no prompt deviates or
--   there are fewer than 5. It is not judged where neither basis was measured. The thresholds and words are those of
--   `prunescope advise` (pipelines/reporting/advice.py: at 0.6 nats the paper's models no longer write but still
--   choose), whose tolerance is 0.1 by default. The flips and loops of the texts are columns beside the verdict and do
--   not change it.
-- reason: a reader asks first which variants may be used, and wants to see by which number each was let through.
-- columns:
--   verdict: safe, non-generative only, broken or not judged [label]
--   is_certain: Whether both ends of the intervals lead to the same verdict; NULL where a loss has none, and where
--     nothing is judged
--   basis: tasks or generations, what the verdict rests on; NULL where it is not judged [label]
--   measure: score or agreement, of the tasks; NULL on another basis [label]
--   loss_writing: Loss in tasks that write, above a guess [share]
--   loss_writing_low: Lower end of its 95 % interval [share]
--   loss_writing_high: Upper end of its 95 % interval [share]
--   loss_choosing: Loss in tasks that choose among options, above a guess [share]
--   loss_choosing_low: Lower end of its 95 % interval [share]
--   loss_choosing_high: Upper end of its 95 % interval [share]
--   kl_step0_nats_low: Lower end of its 95 % interval over the prompts; NULL below 5 of them [nats]
--   kl_step0_nats_high: Upper end of it [nats]
--   top1_change: Share of teacher-forced tokens with another likeliest one [share] = 1 − top1_agreement
--   top1_change_low: Lower end of its 95 % interval [share]
--   top1_change_high: Upper end of it [share]
--   options_changed: Share of the prompts' questions with another likeliest option [share] = 1 −
--     options_argmax_kept/questions
--   options_changed_low: Lower end of its 95 % interval by Wilson [share]
--   options_changed_high: Upper end of it [share]
--   collapse_step_first: Earliest step at which one of the variant's texts completes a loop; NULL where none does
--     [step]
--   prompts_collapsed_dense: Prompts whose dense text ends in a loop [prompts]
with

losses as (
    select
        model,
        recipe,
        measure,
        max(loss) filter (where kind = 'generative') as loss_writing,
        max(1.959963984540054 * loss_se) filter (where kind = 'generative') as half_width_writing,
        max(loss) filter (where kind = 'non_generative') as loss_choosing,
        max(1.959963984540054 * loss_se) filter (where kind = 'non_generative') as half_width_choosing
    from task_losses
    group by model, recipe, measure
),

-- Right answers before the dense model's own ones.
scored as (
    select *
    from losses
    where loss_writing is not null and loss_choosing is not null
    qualify row_number() over (partition by model, recipe order by measure desc) = 1
),

texts as (
    select
        model,
        recipe,
        min(collapse_step) as collapse_step_first,
        count(collapse_step) as prompts_collapsed
    from stg_generations
    group by model, recipe
),

prompts as (
    select
        model,
        recipe,
        prompt_id,
        max(kl_dense_pruned_nats) filter (where step = 0) as kl_step0,
        count(*) as tokens,
        count_if(not is_top1_same) as changed
    from decoding_at_reference
    where trajectory = 'teacher_forced'
    group by model, recipe, prompt_id
),

-- What each prompt adds to the means over all of its variant's.
weighed as (
    select
        *,
        (kl_step0 - avg(kl_step0) over of_variant) / count(kl_step0) over of_variant as influence_on_kl,
        (changed - tokens * sum(changed) over of_variant / sum(tokens) over of_variant)
        / sum(tokens) over of_variant as influence_on_change
    from prompts
    window of_variant as (partition by model, recipe)
),

spreads as (
    select
        model,
        recipe,
        -- Where five prompts or more all say the same, it is that.
        case
            when count(kl_step0) >= 5 then coalesce(half_width_over_clusters(influence_on_kl), 0)
        end as half_width_kl,
        half_width_over_clusters(influence_on_change) as half_width_change,
        wilson_interval(sum(changed), sum(tokens)) as change_by_tokens
    from weighed
    group by model, recipe
),

measured as (
    select
        variants.model,
        variants.recipe,
        variants.variant,
        variants.method,
        variants.parameters_removed_share,
        case
            when scored.measure is not null then 'tasks'
            when variants.kl_step0_nats is not null and variants.questions > 0 then 'generations'
        end as basis,
        scored.measure,
        scored.loss_writing,
        scored.loss_writing - scored.half_width_writing as loss_writing_low,
        -- A text cannot be worse than wrong.
        case
            when scored.loss_writing + scored.half_width_writing > 1 then 1
            else scored.loss_writing + scored.half_width_writing
        end as loss_writing_high,
        scored.loss_choosing,
        scored.loss_choosing - scored.half_width_choosing as loss_choosing_low,
        scored.loss_choosing + scored.half_width_choosing as loss_choosing_high,
        variants.kl_step0_nats,
        case
            when variants.kl_step0_nats < spreads.half_width_kl then 0
            else variants.kl_step0_nats - spreads.half_width_kl
        end as kl_step0_nats_low,
        variants.kl_step0_nats + spreads.half_width_kl as kl_step0_nats_high,
        1 - variants.top1_agreement as top1_change,
        coalesce(
            within_0_and_1(1 - variants.top1_agreement - spreads.half_width_change), spreads.change_by_tokens[1]
        ) as top1_change_low,
        coalesce(
            within_0_and_1(1 - variants.top1_agreement + spreads.half_width_change), spreads.change_by_tokens[2]
        ) as top1_change_high,
        variants.questions,
        1 - variants.options_argmax_kept / nullif(variants.questions, 0) as options_changed,
        wilson_interval(variants.questions - variants.options_argmax_kept, variants.questions) as options_interval,
        variants.kl_teacher_forced_median_nats,
        variants.kl_free_running_median_nats,
        variants.kl_noise_p95_nats,
        variants.is_below_noise,
        variants.prompts,
        variants.prompts_flipped,
        variants.first_flip_step_median,
        variants.prompts_collapsed,
        texts.collapse_step_first,
        coalesce(dense_texts.prompts_collapsed, 0) as prompts_collapsed_dense
    from variant_summary as variants
    left join scored
        on variants.model = scored.model and variants.recipe = scored.recipe
    left join spreads
        on variants.model = spreads.model and variants.recipe = spreads.recipe
    left join texts
        on variants.model = texts.model and variants.recipe = texts.recipe
    left join texts as dense_texts
        on variants.model = dense_texts.model and dense_texts.recipe = 'dense'
    where variants.recipe <> 'dense'
),

-- One rule for the numbers themselves and for either end of their intervals.
held as (
    select
        model,
        recipe,
        case
            when loss_choosing >= 0.5 then 'broken'
            when greatest(loss_writing, loss_choosing) <= 0.1 then 'safe'
            else 'non-generative only'
        end as by_tasks,
        case
            when loss_choosing_low >= 0.5 then 'broken'
            when greatest(loss_writing_low, loss_choosing_low) <= 0.1 then 'safe'
            else 'non-generative only'
        end as tasks_at_best,
        case
            when loss_choosing_high >= 0.5 then 'broken'
            when greatest(loss_writing_high, loss_choosing_high) <= 0.1 then 'safe'
            else 'non-generative only'
        end as tasks_at_worst,
        case
            when options_changed >= 0.5 then 'broken'
            when kl_step0_nats < 0.6 and top1_change <= 0.1 then 'safe'
            else 'non-generative only'
        end as by_generations,
        case
            when options_interval[1] >= 0.5 then 'broken'
            when coalesce(kl_step0_nats_low, 0) < 0.6 and top1_change_low <= 0.1 then 'safe'
            else 'non-generative only'
        end as generations_at_best,
        case
            when options_interval[2] >= 0.5 then 'broken'
            when kl_step0_nats_high < 0.6 and top1_change_high <= 0.1 then 'safe'
            else 'non-generative only'
        end as generations_at_worst
    from measured
),

judged as (
    select
        measured.model,
        measured.recipe,
        case
            when measured.basis = 'tasks' then held.by_tasks
            when measured.basis = 'generations' and (measured.questions >= 3 or held.by_generations = 'safe')
                then held.by_generations
        end as verdict,
        case
            when measured.basis = 'generations'
                then held.by_generations = held.generations_at_best and held.by_generations = held.generations_at_worst
            when measured.loss_writing_low is not null and measured.loss_choosing_low is not null
                then held.by_tasks = held.tasks_at_best and held.by_tasks = held.tasks_at_worst
        end as is_certain
    from measured
    inner join held
        on measured.model = held.model and measured.recipe = held.recipe
)

select
    measured.model,
    measured.recipe,
    measured.variant,
    measured.method,
    measured.parameters_removed_share,
    coalesce(judged.verdict, 'not judged') as verdict,
    case when judged.verdict is not null then judged.is_certain end as is_certain,
    case when judged.verdict is not null then measured.basis end as basis,
    measured.measure,
    measured.loss_writing,
    measured.loss_writing_low,
    measured.loss_writing_high,
    measured.loss_choosing,
    measured.loss_choosing_low,
    measured.loss_choosing_high,
    measured.kl_step0_nats,
    measured.kl_step0_nats_low,
    measured.kl_step0_nats_high,
    measured.top1_change,
    measured.top1_change_low,
    measured.top1_change_high,
    measured.questions,
    measured.options_changed,
    measured.options_interval[1] as options_changed_low,
    measured.options_interval[2] as options_changed_high,
    measured.kl_teacher_forced_median_nats,
    measured.kl_free_running_median_nats,
    measured.kl_noise_p95_nats,
    measured.is_below_noise,
    measured.prompts,
    measured.prompts_flipped,
    measured.first_flip_step_median,
    measured.prompts_collapsed,
    measured.collapse_step_first,
    measured.prompts_collapsed_dense
from measured
inner join judged
    on measured.model = judged.model and measured.recipe = judged.recipe
order by measured.model, measured.recipe
