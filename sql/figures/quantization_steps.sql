-- Shift in h, z and p along the generation, for a quantized variant, a drop and a mask.
-- grain: one row per model × variant × trajectory × step.
-- inputs: decoding_at_reference, stg_variants
-- how to read: each kind is shown by the variant nearest to the paper's: AWQ in 4 bits, 8 attention sublayers dropped,
--   Wanda at 4:8. At most 64 steps are drawn: stride neighbouring steps share a row.
with kinds as (
    select
        *,
        case
            when method in ('awq', 'gptq', 'rtn') then 'quantization'
            when method = 'attn-drop' then 'drop'
            when method in ('wanda', 'sparsegpt', 'magnitude') then 'mask'
        end as kind
    from stg_variants
),

chosen as (
    select model, recipe, kind
    from kinds
    where kind is not null
    qualify
        row_number() over (
            partition by model, kind
            order by
                abs(sublayers_dropped_count - 8), coalesce(json_extract_string(parameters_json, '$.block'), '') <> '8',
                coalesce(json_extract_string(parameters_json, '$.bits'), '4') <> '4',
                list_position(['awq', 'gptq', 'rtn', 'wanda', 'sparsegpt', 'magnitude'], method), recipe
        ) = 1
),

compared as (
    select *
    from chosen
    qualify bool_or(kind = 'quantization') over (partition by model) and count(*) over (partition by model) > 1
),

strides as (
    select
        model,
        max(step) // 64 + 1 as stride
    from decoding_at_reference
    group by all
)

select
    steps.model, steps.recipe, compared.kind, steps.trajectory,
    steps.step // strides.stride * strides.stride as step,
    strides.stride, steps.temperature,
    count(distinct steps.prompt_id) as prompts,
    median(steps.one_minus_cos_h) as one_minus_cos_h_median,
    quantile_cont(steps.one_minus_cos_h, 0.1) as one_minus_cos_h_p10,
    quantile_cont(steps.one_minus_cos_h, 0.9) as one_minus_cos_h_p90,
    median(steps.one_minus_cos_z) as one_minus_cos_z_median,
    quantile_cont(steps.one_minus_cos_z, 0.1) as one_minus_cos_z_p10,
    quantile_cont(steps.one_minus_cos_z, 0.9) as one_minus_cos_z_p90,
    median(steps.one_minus_cos_p) as one_minus_cos_p_median,
    quantile_cont(steps.one_minus_cos_p, 0.1) as one_minus_cos_p_p10,
    quantile_cont(steps.one_minus_cos_p, 0.9) as one_minus_cos_p_p90
from decoding_at_reference as steps
inner join compared using (model, recipe)
inner join strides using (model)
where steps.trajectory in ('teacher_forced', 'own_text')
group by
    steps.model, steps.recipe, compared.kind, steps.trajectory,
    steps.step // strides.stride * strides.stride, strides.stride, steps.temperature
order by
    steps.model asc, steps.trajectory desc, list_position(['quantization', 'drop', 'mask'], compared.kind) asc, step asc
