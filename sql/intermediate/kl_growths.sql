-- What reading its own tokens adds to the KL of each variant, on each prompt.
-- grain: one row per model × recipe × prompt that was measured on both trajectories.
-- key: model, recipe, prompt_id
-- inputs: decoding_at_reference
-- how to read: mean over the steps that both trajectories have; negative where feedback reduces the KL.
-- reason: variant_damage averages these over the prompts, which are the independent units.
-- columns:
--   growth_nats: Mean KL(dense‖pruned) free running minus teacher forced [nats]
select
    free.model,
    free.recipe,
    free.prompt_id,
    avg(cast(free.kl_dense_pruned_nats as double) - forced.kl_dense_pruned_nats) as growth_nats
from decoding_at_reference as free
inner join decoding_at_reference as forced
    on
        free.model = forced.model
        and free.recipe = forced.recipe
        and free.prompt_id = forced.prompt_id
        and free.step = forced.step
where free.trajectory = 'free_running' and forced.trajectory = 'teacher_forced'
group by free.model, free.recipe, free.prompt_id
