-- What reading its own tokens adds to the KL of each variant, on each prompt.
-- grain: one row per model × recipe × prompt that was measured on both trajectories.
-- key: model, recipe, prompt_id
-- inputs: token_trace
-- how to read: mean over the steps that both trajectories have; negative where feedback reduces the KL.
-- reason: variant_damage averages these over the prompts, which are the independent units.
-- columns:
--   growth_nats: Mean KL(dense‖pruned) free running minus teacher forced [nats]
select
    model,
    recipe,
    prompt_id,
    avg(cast(kl_free_running_nats as double) - kl_teacher_forced_nats) as growth_nats
from token_trace
where kl_free_running_nats is not null and kl_teacher_forced_nats is not null
group by model, recipe, prompt_id
