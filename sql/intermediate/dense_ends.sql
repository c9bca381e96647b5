-- The step at which the dense model ends its text, for each prompt whose text ends.
-- grain: one row per model × prompt with an end.
-- key: model, prompt_id
-- inputs: stg_generations
-- how to read: end_step is that of the dense row; the end-of-text token itself is a step of the text. A prompt whose
--   text reaches the study's length has no row, and a study without free-running texts has none at all.
-- reason: tokens after the end of a text count in no mean.
-- columns:
--   end_position: Position that predicts the end-of-text token; later ones read it [token]
select
    model, prompt_id, end_step,
    prompt_tokens - 1 + end_step as end_position
from stg_generations
where recipe = 'dense' and end_step is not null
