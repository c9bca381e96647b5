-- Shift in h, z and p and KL along the generation, with the numbers of prompts that flip or answer at a step.
-- grain: one row per model × recipe × trajectory × step.
-- inputs: decoding_curve, reference_temperature
-- how to read: prompts_flipping counts first flips, prompts_answered the variants' texts that complete their answer. At
--   most 64 steps are drawn, or 16 if the model has more than 12 variants: stride neighbouring steps share a row. The
--   KL on fork up to a prompt's first flip is 0.
with strides as (
    select
        model,
        max(step) // case when count(distinct recipe) > 12 then 16 else 64 end + 1 as stride
    from decoding_curve
    group by all
)

select
    curve.model, curve.recipe, curve.temperature, curve.trajectory,
    curve.step // strides.stride * strides.stride as step,
    strides.stride,
    median(curve.one_minus_cos_h) as one_minus_cos_h_median,
    quantile_cont(curve.one_minus_cos_h, 0.1) as one_minus_cos_h_p10,
    quantile_cont(curve.one_minus_cos_h, 0.9) as one_minus_cos_h_p90,
    median(curve.one_minus_cos_z) as one_minus_cos_z_median,
    quantile_cont(curve.one_minus_cos_z, 0.1) as one_minus_cos_z_p10,
    quantile_cont(curve.one_minus_cos_z, 0.9) as one_minus_cos_z_p90,
    median(curve.one_minus_cos_p) as one_minus_cos_p_median,
    quantile_cont(curve.one_minus_cos_p, 0.1) as one_minus_cos_p_p10,
    quantile_cont(curve.one_minus_cos_p, 0.9) as one_minus_cos_p_p90,
    median(curve.kl_dense_pruned_nats) as kl_median,
    quantile_cont(curve.kl_dense_pruned_nats, 0.1) as kl_p10,
    quantile_cont(curve.kl_dense_pruned_nats, 0.9) as kl_p90,
    count(distinct curve.prompt_id) as prompts,
    count(*) filter (where curve.trajectory = 'teacher_forced' and curve.first_flip_step = curve.step)
        as prompts_flipping,
    count(*) filter (where curve.trajectory = 'own_text' and curve.answer_end_step = curve.step) as prompts_answered
from decoding_curve as curve
inner join strides using (model)
semi join reference_temperature using (model, recipe, temperature)
where curve.recipe <> 'dense'
group by all
order by curve.model asc, curve.recipe asc, curve.trajectory desc, step asc
