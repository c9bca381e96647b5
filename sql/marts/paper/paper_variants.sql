-- Every variant with its headline measures, the number of prompts behind them, and their uncertainty.
-- grain: one row per model × recipe.
-- key: model, recipe
-- inputs: variant_summary, decoding_at_reference
-- columns:
--   kl_teacher_forced_mean_nats: mean KL(dense‖pruned) over prompts and steps, both reading the dense tokens [nats]
--   kl_teacher_forced_mean_nats_se: its standard error over prompts [nats]
--   kl_own_text_mean_nats: mean KL(dense‖pruned) over prompts and steps, both reading the variant's text [nats]
--   kl_own_text_mean_nats_se: its standard error over prompts [nats]
--   top1_agreement: steps with the same most likely token, teacher forced [share]
--   top1_agreement_se: its standard error over prompts [share]
--   steps: teacher-forced steps that were measured
-- how to read: means are over all steps of all prompts at the reference temperature (T = 1 if measured). Errors take
--   prompts as the independent units (cluster-robust) and are NULL below two prompts. The other columns are those of
--   variant_summary.
-- reason: the first table of a paper about pruning: what was removed and what it cost.
with prompts as (
    select
        model, recipe, trajectory, prompt_id,
        count(*) as steps,
        sum(cast(kl_dense_pruned_nats as double)) as kl,
        sum(cast(is_top1_same as integer)) as top1
    from decoding_at_reference
    group by all
),

sums as (
    select
        model, recipe, trajectory,
        sum(steps) as steps,
        sum(kl) / sum(steps) as kl_mean,
        sum(top1) / sum(steps) as top1_mean
    from prompts
    group by all
),

spreads as (
    select
        sums.model, sums.recipe, sums.trajectory,
        any_value(sums.steps) as steps,
        any_value(sums.kl_mean) as kl_mean,
        any_value(sums.top1_mean) as top1_mean,
        error_over_clusters((prompts.kl - prompts.steps * sums.kl_mean) / sums.steps) as kl_mean_se,
        error_over_clusters((prompts.top1 - prompts.steps * sums.top1_mean) / sums.steps) as top1_mean_se
    from sums
    inner join prompts using (model, recipe, trajectory)
    group by all
)

select
    totals.model, totals.recipe, totals.method, totals.sparsity, totals.parameters_removed_share,
    totals.sublayers_dropped_count, totals.temperature, totals.prompts,
    coalesce(cast(forced.steps as bigint), 0) as steps,
    forced.kl_mean as kl_teacher_forced_mean_nats,
    forced.kl_mean_se as kl_teacher_forced_mean_nats_se,
    own_text.kl_mean as kl_own_text_mean_nats,
    own_text.kl_mean_se as kl_own_text_mean_nats_se,
    forced.top1_mean as top1_agreement,
    forced.top1_mean_se as top1_agreement_se,
    totals.first_flip_step_median, totals.prompts_correct, totals.prompts_graded, totals.options_argmax_kept,
    totals.questions
from variant_summary as totals
left join spreads as forced
    on totals.model = forced.model and totals.recipe = forced.recipe and forced.trajectory = 'teacher_forced'
left join spreads as own_text
    on totals.model = own_text.model and totals.recipe = own_text.recipe and own_text.trajectory = 'own_text'
order by totals.model, totals.recipe <> 'dense', totals.recipe
