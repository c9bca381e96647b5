-- The rows of decoding_steps that belong to the texts that they compare.
-- grain: one row per variant × prompt × trajectory × step × temperature.
-- key: model, recipe, prompt_id, trajectory, step, temperature
-- inputs: stg_decoding_steps, stg_generations, dense_ends
-- how to read: the columns of stg_decoding_steps. Steps on the dense text end with it, and free running ends with the
--   shorter of both texts. Rows of own_text and fork are stored up to their ends only. Noise variants are included.
-- reason: single place that leaves out what a model would write behind an end.
select steps.*
from stg_decoding_steps as steps
left join dense_ends
    on steps.model = dense_ends.model and steps.prompt_id = dense_ends.prompt_id
left join stg_generations as own
    on
        steps.model = own.model
        and steps.recipe = own.recipe
        and steps.prompt_id = own.prompt_id
        and steps.trajectory = 'free_running'
where
    steps.trajectory in ('own_text', 'fork')
    or steps.step <= least(coalesce(dense_ends.end_step, steps.step), coalesce(own.end_step, steps.step))
