-- Probes of variants that drop units, as scores: 1 for the dense model, less for more damage.
-- grain: one row per variant of drop_variants × probe.
-- key: model, recipe, metric
-- inputs: drop_variants, decoding_at_reference
-- how to read: top1_agreement is the share of teacher-forced steps with the same top token; kl_kept and kl_step0_kept
--   are exp(−mean KL(dense‖pruned)) over all steps and at the first. Errors are over prompts.
-- reason: drop_scores treats probes and tasks alike.
-- columns:
--   metric: Name of the probe: top1_agreement, kl_kept or kl_step0_kept [label]
--   score: The probe as a score [share]
--   score_se: Its standard error over prompts; NULL below two [share]
--   score_low: Lower end of its 95 % interval, clustered by prompt: Wilson's with an effective number of steps, or
--     Student's t on a logarithmic scale of the mean KL; NULL if not known [share]
--   score_high: Upper end of its 95 % interval, the same way [share]
with prompts as (
    select
        variants.model, variants.recipe,
        -- Row i gets entry i of every unnested list.
        unnest(['top1_agreement', 'kl_kept', 'kl_step0_kept']) as metric,
        unnest([
            sum(cast(cast(steps.is_top1_same as integer) as double)),
            sum(cast(steps.kl_dense_pruned_nats as double)),
            sum(cast(steps.kl_dense_pruned_nats as double)) filter (where steps.step = 0)
        ]) as total,
        unnest([count(*), count(*), count(*) filter (where steps.step = 0)]) as steps
    from drop_variants as variants
    inner join decoding_at_reference as steps using (model, recipe)
    where steps.trajectory = 'teacher_forced'
    group by variants.model, variants.recipe, steps.prompt_id
),

probe_means as (
    select
        model, recipe, metric,
        sum(steps) as steps,
        sum(total) / sum(steps) as per_step
    from prompts
    where steps > 0
    group by model, recipe, metric
),

probe_errors as (
    select
        means.model, means.recipe, means.metric,
        any_value(means.per_step) as per_step,
        error_over_clusters((prompts.total - prompts.steps * means.per_step) / means.steps) as per_step_se,
        case when means.metric = 'top1_agreement' then wilson_interval_over_clusters(prompts.total, prompts.steps) end
            as share_ends,
        interval_of_positive_mean(
            any_value(means.per_step), half_width_of_mean(prompts.total, prompts.steps)
        ) as mean_ends
    from probe_means as means
    inner join prompts using (model, recipe, metric)
    where prompts.steps > 0
    group by means.model, means.recipe, means.metric
)

select
    model, recipe, metric,
    case when metric = 'top1_agreement' then per_step else exp(-per_step) end as score,
    -- First order: a logarithm's error is relative.
    per_step_se * case when metric = 'top1_agreement' then 1 else exp(-per_step) end as score_se,
    coalesce(share_ends[1], exp(-mean_ends[2])) as score_low,
    coalesce(share_ends[2], exp(-mean_ends[1])) as score_high
from probe_errors
