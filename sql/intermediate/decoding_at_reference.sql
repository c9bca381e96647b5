-- The decoding steps at the reference temperature (T = 1 if measured), in every trajectory.
-- grain: one row per model × recipe × prompt × trajectory × step.
-- key: model, recipe, prompt_id, trajectory, step
-- inputs: stg_decoding_steps, trajectory_ends, reference_temperature
-- how to read: the columns of stg_decoding_steps that other views read, up to the ends of the texts. Noise variants are
--   excluded.
-- reason: most questions about the output need one row per step; greedy tokens do not depend on T.
select
    steps.model, steps.recipe, steps.variant, steps.prompt_id, steps.trajectory, steps.step, steps.position,
    steps.temperature, steps.token_id_dense, steps.token_id_pruned, steps.token_text_dense, steps.token_text_pruned,
    steps.one_minus_cos_h, steps.one_minus_cos_z, steps.one_minus_cos_p, steps.var_p_dz, steps.kl_dense_pruned_nats,
    steps.total_variation, steps.is_top1_same, steps.rank_of_dense_top1, steps.rank_of_pruned_top1,
    steps.p_dense_top1_dense, steps.p_dense_top1_pruned, steps.entropy_dense_nats, steps.entropy_pruned_nats,
    steps.margin_dense, steps.margin_pruned, steps.is_same_token
from stg_decoding_steps as steps
inner join reference_temperature using (model, recipe, temperature)
left join trajectory_ends as ends (model, recipe, prompt_id, trajectory, end_step)
    using (model, recipe, prompt_id, trajectory)
where steps.step <= coalesce(ends.end_step, steps.step)
