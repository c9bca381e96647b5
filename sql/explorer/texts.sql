-- Every text and that of the dense model.
-- grain: one row per model × recipe × prompt, dense included.
-- inputs: stg_generations, noise_variants
select
    one.model, one.recipe, one.prompt_id, one.text, one.first_flip_step, one.collapse_step, one.answer_end_step,
    one.answer, one.is_correct,
    dense.text as text_dense,
    dense.collapse_step as collapse_step_dense,
    dense.answer_end_step as answer_end_step_dense,
    dense.answer as answer_dense,
    dense.is_correct as is_correct_dense
from stg_generations as one
anti join noise_variants using (model, recipe)
left join stg_generations as dense
    on one.model = dense.model and one.prompt_id = dense.prompt_id and dense.recipe = 'dense'
order by one.model, one.recipe, one.prompt_id
