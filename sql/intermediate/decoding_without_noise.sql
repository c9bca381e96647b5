-- The rows of decoding_steps up to the ends of their texts, without those of noise variants.
-- grain: one row per variant × prompt × trajectory × step × temperature, noise left out.
-- key: model, recipe, prompt_id, trajectory, step, temperature
-- inputs: stg_decoding_steps, trajectory_ends, noise_variants
-- how to read: the columns of stg_decoding_steps that other views read. The dense recipe is included.
-- reason: single place that excludes noise from the decoding steps.
select
    steps.model, steps.recipe, steps.prompt_id, steps.trajectory, steps.step, steps.temperature, steps.token_id_pruned,
    steps.one_minus_cos_h, steps.one_minus_cos_z, steps.one_minus_cos_p, steps.kl_dense_pruned_nats,
    steps.entropy_dense_nats, steps.margin_dense, steps.margin_pruned
from stg_decoding_steps as steps
anti join noise_variants using (model, recipe)
left join trajectory_ends as ends (model, recipe, prompt_id, trajectory, end_step)
    using (model, recipe, prompt_id, trajectory)
where steps.step <= coalesce(ends.end_step, steps.step)
