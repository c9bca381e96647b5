-- How much larger is the KL when each model reads its own tokens than when both read the dense model's?
-- grain: one row per model × recipe × context.
-- key: model, recipe, context
-- inputs: token_trace
-- how to read: context `shared` are the steps up to the first flip, where both trajectories read the same tokens and
--   the two KLs must agree; `own` are the steps after it. feedback_share is the part of the mean free-running KL that
--   the weights alone do not explain, 1 − teacher forced / free running; it is negative where feedback reduces the KL.
--   The dense recipe is excluded.
-- reason: the paper's curve mixes what pruning does to one step with the effect of decoding on the following ones.
-- columns:
--   context: shared up to the first flip, where both trajectories read the same tokens; own after it
--   n: Steps [steps]
--   n_prompts: Prompts that they come from [prompts]
--   kl_teacher_forced_median_nats: Median KL(dense‖pruned) on the dense model's tokens [nats]
--   kl_free_running_median_nats: Median KL(dense‖pruned) with each model on its own tokens [nats]
--   kl_teacher_forced_mean_nats: Mean KL(dense‖pruned) on the dense model's tokens [nats]
--   kl_free_running_mean_nats: Mean KL(dense‖pruned) with each model on its own tokens [nats]
--   feedback_share: Part of the free-running KL that the weights alone do not explain [share] = 1 − teacher forced/free
--     running, of the means
with

steps as (
    select
        model,
        recipe,
        prompt_id,
        kl_teacher_forced_nats,
        kl_free_running_nats,
        case when step > first_flip_step then 'own' else 'shared' end as context
    from token_trace
    where
        recipe <> 'dense'
        and kl_teacher_forced_nats is not null
        and kl_free_running_nats is not null
)

select
    model,
    recipe,
    context,
    count(*) as n,
    count(distinct prompt_id) as n_prompts,
    median(kl_teacher_forced_nats) as kl_teacher_forced_median_nats,
    median(kl_free_running_nats) as kl_free_running_median_nats,
    avg(kl_teacher_forced_nats) as kl_teacher_forced_mean_nats,
    avg(kl_free_running_nats) as kl_free_running_mean_nats,
    1 - avg(kl_teacher_forced_nats) / nullif(avg(kl_free_running_nats), 0) as feedback_share
from steps
group by model, recipe, context
order by model asc, recipe asc, context desc
