-- Up to the first flip all trajectories read the same tokens, so they must agree there; the fork differs by exactly 0.
-- grain: one row per model × recipe × prompt × trajectory × step × temperature that disagrees.
-- inputs: decoding_without_noise, stg_decoding_steps, stg_generations, stg_models
-- reason: a difference means a cache, a position or a prompt that is not the same on both sides. Noise variants are
--   excluded: they are rounding, and passes of other shapes round differently.
with compared as (
    select
        forced.model, forced.recipe, forced.prompt_id, forced.step, forced.temperature, other.trajectory,
        forced.kl_dense_pruned_nats as kl_teacher_forced_nats,
        other.kl_dense_pruned_nats as kl_nats,
        models.dtype,
        least(forced.margin_pruned, other.margin_pruned) as margin_pruned,
        forced.token_id_pruned as token_id_teacher_forced,
        other.token_id_pruned as token_id_other
    from decoding_without_noise as forced
    inner join stg_decoding_steps as other using (model, recipe, prompt_id, step, temperature)
    left join stg_models as models using (model)
    left join stg_generations as generations using (model, recipe, prompt_id)
    where
        forced.trajectory = 'teacher_forced' and other.trajectory <> 'teacher_forced'
        and (forced.step = 0 or generations.first_flip_step is null or forced.step <= generations.first_flip_step)
)

select model, recipe, prompt_id, step, trajectory, temperature, kl_teacher_forced_nats, kl_nats
from compared
where
    case
        when trajectory = 'fork' then kl_nats <> 0
        -- Passes of other shapes round differently, which may reverse a tie; a real difference is far larger.
        else
            (token_id_teacher_forced <> token_id_other and margin_pruned > tie_margin(dtype, recipe))
            or (
                coalesce(dtype, 'float32') = 'float32'
                and abs(kl_teacher_forced_nats - kl_nats) > 1e-2 * kl_teacher_forced_nats + 1e-5
            )
    end
