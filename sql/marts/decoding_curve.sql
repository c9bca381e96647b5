-- KL and cosine defects along a generation, with the first flip and the end of the answer marked.
-- grain: one row per model × recipe × prompt × trajectory × step × temperature.
-- key: model, recipe, prompt_id, trajectory, step, temperature
-- inputs: stg_decoding_steps, stg_generations
-- how to read: at first_flip_step both models still read the same tokens, so is_after_flip begins one step later; up to
--   there free_running equals teacher_forced. answer_end_step is the dense answer's end under teacher_forced (both read
--   its tokens) and the end of whichever answer is complete first under free_running; NULL where none is.
-- reason: divergence after the answer is complete must be told apart from divergence inside it.
with

marked as (
    select
        steps.model,
        steps.recipe,
        steps.prompt_id,
        steps.trajectory,
        steps.step,
        steps.temperature,
        steps.kl_dense_pruned_nats,
        steps.one_minus_cos_h,
        steps.one_minus_cos_z,
        steps.one_minus_cos_p,
        steps.entropy_dense_nats,
        steps.margin_dense,
        pruned.first_flip_step,
        case
            when steps.trajectory = 'teacher_forced' then dense.answer_end_step
            else least(dense.answer_end_step, pruned.answer_end_step)
        end as answer_end_step
    from stg_decoding_steps as steps
    left join stg_generations as pruned
        on
            steps.model = pruned.model
            and steps.recipe = pruned.recipe
            and steps.prompt_id = pruned.prompt_id
    left join stg_generations as dense
        on
            steps.model = dense.model
            and dense.recipe = 'dense'
            and steps.prompt_id = dense.prompt_id
)

select
    model,
    recipe,
    prompt_id,
    trajectory,
    step,
    temperature,
    kl_dense_pruned_nats,
    one_minus_cos_h,
    one_minus_cos_z,
    one_minus_cos_p,
    entropy_dense_nats,
    margin_dense,
    first_flip_step,
    answer_end_step,
    coalesce(step > first_flip_step, false) as is_after_flip,
    coalesce(step > answer_end_step, false) as is_after_answer
from marked
