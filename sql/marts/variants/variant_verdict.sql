-- The verdict on each pruned variant: safe, non-generative only, broken or not judged, with its evidence.
-- grain: one row per pruned variant.
-- key: model, recipe
-- inputs: verdict_evidence
-- how to read: basis tasks, where tasks of both kinds were scored: verdict_by_losses of the losses in task_losses, with
--   a tolerance of 0.1. measure is score where the dense model scores above chance in both kinds, else agreement with
--   its own answers. Low and high are the loss with 1.96 standard errors (writing loses at most 1, because a text
--   cannot be worse than wrong). Basis generations, otherwise: verdict_by_prompts of the study's prompts. With fewer
--   than 3 questions, broken and non-generative only look alike, so the only verdict is safe. Without either basis the
--   variant is not judged. is_certain says that both ends of all intervals lead to the same verdict, NULL where a loss
--   has no error. The intervals of the prompts are at 95 %: Wilson's over the questions; Student's t over the prompts
--   for KL, unbounded below 5 prompts; for tokens Student's t, or Wilson's over the tokens where no prompt deviates or
--   there are fewer than 5. `prunescope advise` applies the same rule to predicted losses. Flips and loops of the texts
--   are columns beside the verdict and do not change it.
-- reason: says which variants may be used, and which number decided it.
-- columns:
--   verdict: safe, non-generative only, broken or not judged [label]
--   is_certain: Whether both ends of the intervals lead to the same verdict; NULL where a loss has none, and where
--     nothing is judged
--   basis: tasks or generations, the evidence of the verdict; NULL where it is not judged [label]
with

-- The same rule for the numbers and for the milder and the worse end of their intervals.
ruled as (
    select
        *,
        verdict_by_losses(loss_choosing, loss_writing, 0.1) as by_tasks,
        verdict_by_losses(loss_choosing_low, loss_writing_low, 0.1) as tasks_at_best,
        verdict_by_losses(loss_choosing_high, loss_writing_high, 0.1) as tasks_at_worst,
        verdict_by_prompts(options_changed, kl_step0_nats, top1_change, 0.1) as by_generations,
        verdict_by_prompts(options_changed_low, coalesce(kl_step0_nats_low, 0), top1_change_low, 0.1)
            as generations_at_best,
        verdict_by_prompts(options_changed_high, kl_step0_nats_high, top1_change_high, 0.1) as generations_at_worst
    from verdict_evidence
),

judged as (
    select
        *,
        case
            when basis = 'tasks' then by_tasks
            when basis = 'generations' and (questions >= 3 or by_generations = 'safe')
                then by_generations
        end as rule_verdict,
        case
            when basis = 'generations'
                then by_generations = generations_at_best and by_generations = generations_at_worst
            when loss_writing_low is not null and loss_choosing_low is not null
                then by_tasks = tasks_at_best and by_tasks = tasks_at_worst
        end as is_rule_certain
    from ruled
)

select
    model,
    recipe,
    variant,
    method,
    parameters_removed_share,
    coalesce(rule_verdict, 'not judged') as verdict,
    case when rule_verdict is not null then is_rule_certain end as is_certain,
    case when rule_verdict is not null then basis end as basis,
    measure,
    loss_writing,
    loss_writing_low,
    loss_writing_high,
    loss_choosing,
    loss_choosing_low,
    loss_choosing_high,
    kl_step0_nats,
    kl_step0_nats_low,
    kl_step0_nats_high,
    top1_change,
    top1_change_low,
    top1_change_high,
    questions,
    options_changed,
    options_changed_low,
    options_changed_high,
    kl_teacher_forced_median_nats,
    kl_free_running_median_nats,
    kl_noise_p95_nats,
    is_below_noise,
    prompts,
    prompts_flipped,
    first_flip_step_median,
    prompts_collapsed,
    collapse_step_first,
    prompts_collapsed_dense
from judged
order by model, recipe
