-- The KL of every step behind a text's first flip, on each trajectory.
-- grain: one row per variant × prompt whose text flips × trajectory × step, noise variants included.
-- key: model, recipe, prompt_id, trajectory, step
-- inputs: stg_decoding_steps, trajectory_ends, variant_temperatures, stg_generations
-- how to read: up to the flip the texts are equal, so that all trajectories agree there. Each ends with the
--   texts that it compares (trajectory_ends).
-- reason: q13 and the claims compare trajectories where they differ, and need the noise as their null.
-- columns:
--   kl_nats: KL(dense‖pruned); on fork of the dense model on its text and on the fork [nats]
select
    steps.model,
    steps.recipe,
    steps.prompt_id,
    steps.trajectory,
    steps.step,
    cast(steps.kl_dense_pruned_nats as double) as kl_nats
from stg_decoding_steps as steps
inner join variant_temperatures using (model, recipe, temperature)
inner join stg_generations as texts using (model, recipe, prompt_id)
left join trajectory_ends as ends (model, recipe, prompt_id, trajectory, end_step)
    using (model, recipe, prompt_id, trajectory)
where steps.step > texts.first_flip_step and steps.step <= coalesce(ends.end_step, steps.step)
