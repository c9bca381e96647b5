-- The evidence for the verdict on each pruned variant: losses in tasks, damage to the study's prompts, and intervals.
-- grain: one row per pruned variant.
-- key: model, recipe
-- inputs: variant_summary, task_losses, stg_generations, decoding_at_reference
-- how to read: basis says which evidence counts; variant_verdict says how the intervals are made.
-- reason: variant_verdict applies its rule to these numbers and to both ends of their intervals. The view is a little
--   long because all evidence of a variant is one row.
-- columns:
--   basis: tasks where tasks of both kinds were scored, else generations where the study's prompts were measured; NULL
--     where neither was [label]
--   measure: score or agreement, of the tasks; NULL on another basis [label]
--   loss_writing: Loss in tasks that write, above a guess [share]
--   loss_writing_low: Lower end of its 95 % interval [share]
--   loss_writing_high: Upper end of its 95 % interval [share]
--   loss_choosing: Loss in tasks that choose among options, above a guess [share]
--   loss_choosing_low: Lower end of its 95 % interval [share]
--   loss_choosing_high: Upper end of its 95 % interval [share]
--   kl_step0_nats_low: Lower end of its 95 % interval over the prompts; NULL below 5 of them [nats]
--   kl_step0_nats_high: Upper end of it [nats]
--   top1_change: Share of teacher-forced tokens whose most likely token differs [share] = 1 − top1_agreement
--   top1_change_low: Lower end of its 95 % interval [share]
--   top1_change_high: Upper end of it [share]
--   options_changed: Share of the prompts' questions whose most likely option differs [share] = 1 −
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

-- Prefers right answers (score) to the dense model's own answers (agreement).
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

-- The contribution of each prompt to the means over all prompts of the variant.
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
        -- Where five or more prompts have the same KL, the interval is that value.
        case
            when count(kl_step0) >= 5 then coalesce(half_width_over_clusters(influence_on_kl), 0)
        end as half_width_kl,
        half_width_over_clusters(influence_on_change) as half_width_change,
        wilson_interval(sum(changed), sum(tokens)) as change_by_tokens
    from weighed
    group by model, recipe
)

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
    wilson_interval(variants.questions - variants.options_argmax_kept, variants.questions)[1] as options_changed_low,
    wilson_interval(variants.questions - variants.options_argmax_kept, variants.questions)[2] as options_changed_high,
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
