-- The teacher-forced steps of each variant, with whether its greedy text would flip and how likely that was.
-- grain: one row per model × recipe × prompt × step, to the end of the dense text; noise included, dense excluded.
-- key: model, recipe, prompt_id, step
-- inputs: stg_decoding_steps, trajectory_ends, variant_temperatures
-- how to read: both models read the dense model's text, so the first step with is_flip is the one at which the
--   variant's own greedy text flips, except for ties. margin_over_shift is known before the choice: the margin m of the
--   first token over √(Var_p(Δz) / (p (1 − p))), where p is its probability. The root is at least the root mean square
--   by which the shift moves another token against the first one, and equal to it for p near 1. So a ratio far above 1
--   leaves the first token first. Ratios are rounded to 0.01. The temperature is 1 or the nearest.
-- reason: survival and hazard are computed from the same steps.
-- columns:
--   is_flip: Whether the two models have different most likely tokens
--   margin_over_shift: Margin of the first token over the typical shift against it, at most 5 [ratio] = m/√(Var_p/(p(1
--     − p)))
select
    steps.model, steps.recipe, steps.prompt_id, steps.step,
    not steps.is_top1_same as is_flip,
    -- If p is rounded to 1, the second token's probability stands for 1 − p. Without a shift the ratio is 5.
    round(
        least(
            5,
            cast(steps.margin_dense as double) * sqrt(
                steps.p_dense_top1_dense
                * greatest(
                    1 - steps.p_dense_top1_dense,
                    steps.p_dense_top1_dense * exp(-steps.margin_dense / steps.temperature)
                )
                / nullif(steps.var_p_dz, 0)
            )
        ),
        2
    ) as margin_over_shift
from stg_decoding_steps as steps
inner join variant_temperatures using (model, recipe, temperature)
left join trajectory_ends as ends (model, recipe, prompt_id, trajectory, end_step)
    using (model, recipe, prompt_id, trajectory)
where
    steps.trajectory = 'teacher_forced' and steps.recipe <> 'dense'
    and steps.step <= coalesce(ends.end_step, steps.step)
