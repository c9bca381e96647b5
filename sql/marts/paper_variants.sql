-- Every variant with its headline measures, how many prompts they stand on, and how uncertain they are.
-- grain: one row per model × recipe.
-- key: model, recipe
-- inputs: variant_summary, reference_steps
-- columns:
--   kl_teacher_forced_mean_nats: mean KL(dense‖pruned) over prompts and steps, both reading the dense tokens [nats]
--   kl_teacher_forced_mean_nats_se: its standard error over prompts [nats]
--   kl_free_running_mean_nats: mean KL(dense‖pruned) over prompts and steps, each reading its own tokens [nats]
--   kl_free_running_mean_nats_se: its standard error over prompts [nats]
--   top1_agreement: steps with the same most likely token, teacher forced [share]
--   top1_agreement_se: its standard error over prompts [share]
--   steps: teacher-forced steps that were measured
-- how to read: means are over all steps of all prompts at the reference temperature (T = 1 where measured). Errors take
--   prompts as the independent units (cluster-robust) and are NULL below two prompts. The other columns are those of
--   variant_summary.
-- reason: the first table of a paper about pruning: what was removed and what it cost.
with

prompts as (
    select
        model,
        recipe,
        trajectory,
        prompt_id,
        count(*) as steps,
        sum(cast(kl_dense_pruned_nats as double)) as kl,
        sum(cast(is_top1_same as integer)) as top1
    from reference_steps
    group by model, recipe, trajectory, prompt_id
),

totals as (
    select
        model,
        recipe,
        trajectory,
        sum(steps) as steps,
        sum(kl) / sum(steps) as kl_mean,
        sum(top1) / sum(steps) as top1_mean
    from prompts
    group by model, recipe, trajectory
),

spreads as (
    select
        totals.model,
        totals.recipe,
        totals.trajectory,
        any_value(totals.steps) as steps,
        any_value(totals.kl_mean) as kl_mean,
        any_value(totals.top1_mean) as top1_mean,
        error_over_clusters((prompts.kl - prompts.steps * totals.kl_mean) / totals.steps) as kl_mean_se,
        error_over_clusters((prompts.top1 - prompts.steps * totals.top1_mean) / totals.steps) as top1_mean_se
    from totals
    inner join prompts
        on
            totals.model = prompts.model
            and totals.recipe = prompts.recipe
            and totals.trajectory = prompts.trajectory
    group by totals.model, totals.recipe, totals.trajectory
)

select
    summary.model,
    summary.recipe,
    summary.method,
    summary.sparsity,
    summary.parameters_removed_share,
    summary.sublayers_dropped_count,
    summary.temperature,
    summary.prompts,
    coalesce(cast(forced.steps as bigint), 0) as steps,
    forced.kl_mean as kl_teacher_forced_mean_nats,
    forced.kl_mean_se as kl_teacher_forced_mean_nats_se,
    free_running.kl_mean as kl_free_running_mean_nats,
    free_running.kl_mean_se as kl_free_running_mean_nats_se,
    forced.top1_mean as top1_agreement,
    forced.top1_mean_se as top1_agreement_se,
    summary.first_flip_step_median,
    summary.prompts_correct,
    summary.prompts_graded,
    summary.options_argmax_kept,
    summary.questions
from variant_summary as summary
left join spreads as forced
    on summary.model = forced.model and summary.recipe = forced.recipe and forced.trajectory = 'teacher_forced'
left join spreads as free_running
    on summary.model = free_running.model and summary.recipe = free_running.recipe and free_running.trajectory = 'free_running'
order by summary.model, summary.recipe <> 'dense', summary.recipe
