-- KL and cosine defects along a generation, with the first flip and the end of the answer marked.
-- grain: one row per model × recipe × prompt × trajectory × step × temperature.
-- key: model, recipe, prompt_id, trajectory, step, temperature
-- inputs: decoding_without_noise, stg_generations, output_noise_ceiling
-- how to read: at first_flip_step both models still read the same tokens, so is_after_flip begins one step later. Until
--   then all trajectories agree, and on fork the KL is 0. answer_end_step is the end of the answer that is read: the
--   dense model's under teacher_forced and fork, the variant's under own_text, the earlier of both under free_running.
--   It is NULL if the answer is never complete. is_below_noise says that the KL is at most kl_noise_p95_nats of
--   output_noise_ceiling at the same temperature: such a step shows no damage. It is NULL if no noise was measured.
--   Noise variants are excluded.
-- reason: divergence after the answer is complete must be distinguished from divergence inside it.
-- columns:
--   answer_end_step: Step at which the answer that is read is complete; under free_running the earlier of both [step]
--   is_after_flip: Whether the step is after the first flip = step > first_flip_step
--   is_after_answer: Whether the step is after the end of the answer = step > answer_end_step
--   is_below_noise: Whether the KL is at most what rounding causes at the output; NULL without noise = KL <=
--     kl_p95_nats of noise_at_output
with marked as (
    select
        steps.*,
        pruned.first_flip_step,
        case steps.trajectory
            when 'own_text' then pruned.answer_end_step
            when 'free_running' then least(dense.answer_end_step, pruned.answer_end_step)
            else dense.answer_end_step
        end as answer_end_step
    from decoding_without_noise as steps
    left join stg_generations as pruned using (model, recipe, prompt_id)
    left join stg_generations as dense
        on steps.model = dense.model and dense.recipe = 'dense' and steps.prompt_id = dense.prompt_id
)

select
    marked.model, marked.recipe, marked.prompt_id, marked.trajectory, marked.step, marked.temperature,
    marked.kl_dense_pruned_nats, marked.one_minus_cos_h, marked.one_minus_cos_z, marked.one_minus_cos_p,
    marked.entropy_dense_nats, marked.margin_dense, marked.first_flip_step, marked.answer_end_step,
    coalesce(marked.step > marked.first_flip_step, false) as is_after_flip,
    coalesce(marked.step > marked.answer_end_step, false) as is_after_answer,
    marked.kl_dense_pruned_nats <= ceilings.kl_noise_p95_nats as is_below_noise
from marked
left join output_noise_ceiling as ceilings using (model, temperature)
