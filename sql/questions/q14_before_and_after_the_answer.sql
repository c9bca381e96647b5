-- How much of the divergence falls inside the answer, and how much after it is complete?
-- grain: one row per model × recipe × trajectory × phase.
-- key: model, recipe, trajectory, phase
-- inputs: decoding_curve, reference_temperature
-- how to read: phase `before` is up to the step that completes the answer, `after` the steps after it; `no end` is for
--   prompts whose answer is never complete. decoding_curve says which model's answer counts. kl_share is the phase's
--   part of the trajectory's summed KL. Everything is at the reference temperature. The dense recipe is excluded.
-- reason: what a model writes after its answer does no harm, yet it dominates the published curves.
-- columns:
--   phase: before or after the end of the answer; no end if it never is complete
--   n: Steps [steps]
--   n_prompts: Prompts that they come from [prompts]
--   kl_median_nats: Median KL(dense‖pruned) [nats]
--   kl_mean_nats: Mean KL(dense‖pruned) [nats]
--   kl_share: Part of the trajectory's summed KL that falls into the phase [share]
with steps as (
    select
        curve.model, curve.recipe, curve.prompt_id, curve.trajectory, curve.kl_dense_pruned_nats,
        case
            when curve.answer_end_step is null then 'no end'
            when curve.is_after_answer then 'after'
            else 'before'
        end as phase
    from decoding_curve as curve
    inner join reference_temperature using (model, recipe, temperature)
    where curve.recipe <> 'dense'
),

phases as (
    select
        model, recipe, trajectory, phase,
        count(*) as n,
        count(distinct prompt_id) as n_prompts,
        median(kl_dense_pruned_nats) as kl_median_nats,
        avg(kl_dense_pruned_nats) as kl_mean_nats,
        sum(kl_dense_pruned_nats) as kl_sum_nats
    from steps
    group by all
)

select
    model, recipe, trajectory, phase, n, n_prompts, kl_median_nats, kl_mean_nats,
    kl_sum_nats / nullif(sum(kl_sum_nats) over (partition by model, recipe, trajectory), 0) as kl_share
from phases
order by model asc, recipe asc, trajectory asc, phase desc
