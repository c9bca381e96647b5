-- Shift of each variant's output in h, z and p for the four prompts of a model that break first, teacher forced.
-- grain: one row per model × prompt × recipe.
-- inputs: decoding_curve, reference_temperature, prompt_summary
-- how to read: the shift is 1 − cos over the generated tokens; _first is that of the first token. The prompts are those
--   of each kind that break first, then those that break second.
select
    decoding_curve.model, decoding_curve.recipe, decoding_curve.prompt_id, decoding_curve.temperature,
    median(decoding_curve.one_minus_cos_h) as h_median,
    quantile_cont(decoding_curve.one_minus_cos_h, 0.1) as h_p10,
    quantile_cont(decoding_curve.one_minus_cos_h, 0.9) as h_p90,
    median(decoding_curve.one_minus_cos_z) as z_median,
    quantile_cont(decoding_curve.one_minus_cos_z, 0.1) as z_p10,
    quantile_cont(decoding_curve.one_minus_cos_z, 0.9) as z_p90,
    median(decoding_curve.one_minus_cos_p) as p_median,
    quantile_cont(decoding_curve.one_minus_cos_p, 0.1) as p_p10,
    quantile_cont(decoding_curve.one_minus_cos_p, 0.9) as p_p90,
    any_value(decoding_curve.one_minus_cos_h) filter (where decoding_curve.step = 0) as h_first,
    any_value(decoding_curve.one_minus_cos_z) filter (where decoding_curve.step = 0) as z_first,
    any_value(decoding_curve.one_minus_cos_p) filter (where decoding_curve.step = 0) as p_first,
    count(*) as tokens
from decoding_curve
semi join reference_temperature using (model, recipe, temperature)
left join prompt_summary as prompts using (model, prompt_id)
where decoding_curve.recipe <> 'dense' and decoding_curve.trajectory = 'teacher_forced'
group by
    decoding_curve.model, decoding_curve.recipe, decoding_curve.prompt_id, decoding_curve.temperature,
    prompts.place_in_kind, prompts.place_in_order
qualify
    dense_rank() over (
        partition by decoding_curve.model
        order by prompts.place_in_kind nulls last, prompts.place_in_order, decoding_curve.prompt_id
    ) <= 4
order by decoding_curve.model, decoding_curve.prompt_id, p_median, decoding_curve.recipe
