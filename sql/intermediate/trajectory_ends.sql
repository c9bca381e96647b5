-- The last step that counts on a trajectory, for each prompt whose text ends.
-- grain: one row per variant × prompt × trajectory with an end.
-- key: model, recipe, prompt_id, on_trajectory
-- inputs: stg_generations, dense_ends
-- how to read: teacher_forced ends with the dense text, free_running with the shorter of both texts. own_text and fork
--   are stored only up to their ends and have no row here. Noise variants are included.
-- reason: steps after an end count in no mean.
-- columns:
--   on_trajectory: `teacher_forced` or `free_running`
--   end_step: Last step that counts, that of an end-of-text token [step]
select
    texts.model, texts.recipe, texts.prompt_id,
    'teacher_forced' as on_trajectory,
    dense_ends.end_step
from stg_generations as texts
inner join dense_ends using (model, prompt_id)

union all

select
    texts.model, texts.recipe, texts.prompt_id,
    'free_running' as on_trajectory,
    -- least skips NULL.
    least(texts.end_step, dense_ends.end_step) as end_step
from stg_generations as texts
left join dense_ends using (model, prompt_id)
where coalesce(texts.end_step, dense_ends.end_step) is not null
