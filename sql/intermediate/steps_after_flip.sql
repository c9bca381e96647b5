-- The KL of every step behind a text's first flip, on each trajectory, up to the end of the texts that are read.
-- grain: one row per variant × prompt whose text flips × trajectory × step, noise variants included.
-- key: model, recipe, prompt_id, trajectory, step
-- inputs: stg_decoding_steps, variant_temperatures, stg_generations, dense_ends
-- how to read: up to the flip the texts are equal, so that all trajectories agree there. teacher_forced ends with the
--   dense text, own_text with the variant's, and free_running with the first of both; fork is stored up to the first
--   end of its two texts.
-- reason: q13 and the claims compare trajectories where they differ, and need the noise as their null.
select
    steps.model,
    steps.recipe,
    steps.prompt_id,
    steps.trajectory,
    steps.step,
    cast(steps.kl_dense_pruned_nats as double) as kl_nats
from stg_decoding_steps as steps
inner join variant_temperatures as temperatures
    on
        steps.model = temperatures.model
        and steps.recipe = temperatures.recipe
        and steps.temperature = temperatures.temperature
inner join stg_generations as texts
    on steps.model = texts.model and steps.recipe = texts.recipe and steps.prompt_id = texts.prompt_id
left join dense_ends
    on steps.model = dense_ends.model and steps.prompt_id = dense_ends.prompt_id
where
    steps.step > texts.first_flip_step
    and case steps.trajectory
        when 'teacher_forced' then steps.step <= coalesce(dense_ends.end_step, steps.step)
        when 'free_running'
            then steps.step <= least(coalesce(dense_ends.end_step, steps.step), coalesce(texts.end_step, steps.step))
        else true
    end
