-- Up to the first flip both trajectories read the same tokens, so they must agree there; step 0 always is such a step.
-- grain: one row per model × recipe × prompt × step × temperature that disagrees.
-- inputs: decoding_without_noise, stg_decoding_steps, stg_generations, stg_models
-- reason: a difference means a cache, a position or a prompt that is not the same on both sides. Noise variants are
--   excluded: they are rounding, and the two trajectories round differently.
with

compared as (
    select
        forced.model,
        forced.recipe,
        forced.prompt_id,
        forced.step,
        forced.temperature,
        forced.kl_dense_pruned_nats as kl_teacher_forced_nats,
        running.kl_dense_pruned_nats as kl_free_running_nats,
        models.dtype,
        least(forced.margin_pruned, running.margin_pruned) as margin_pruned,
        forced.token_id_pruned as token_id_teacher_forced,
        running.token_id_pruned as token_id_free_running
    from decoding_without_noise as forced
    inner join stg_decoding_steps as running
        on
            forced.model = running.model
            and forced.recipe = running.recipe
            and forced.prompt_id = running.prompt_id
            and forced.step = running.step
            and forced.temperature = running.temperature
            and running.trajectory = 'free_running'
    left join stg_models as models on forced.model = models.model
    left join stg_generations as generations
        on
            forced.model = generations.model
            and forced.recipe = generations.recipe
            and forced.prompt_id = generations.prompt_id
    where
        forced.trajectory = 'teacher_forced'
        and (forced.step = 0 or generations.first_flip_step is null or forced.step <= generations.first_flip_step)
)

select
    model,
    recipe,
    prompt_id,
    step,
    temperature,
    kl_teacher_forced_nats,
    kl_free_running_nats
from compared
where
    -- Passes of other shapes round differently, which may reverse a tie; a real difference is far larger.
    (token_id_teacher_forced <> token_id_free_running and margin_pruned > tie_margin(dtype))
    or (
        coalesce(dtype, 'float32') = 'float32'
        and abs(kl_teacher_forced_nats - kl_free_running_nats) > 1e-2 * kl_teacher_forced_nats + 1e-5
    )
