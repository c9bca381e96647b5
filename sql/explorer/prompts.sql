-- Prompts: how many variants break on each, how early, and whether its layers were measured.
-- grain: one row per model × prompt.
-- inputs: prompt_summary, stg_generations, stg_layer_transitions
with texts as (
    select
        model, prompt_id,
        any_value(prompt_text) as prompt_text,
        any_value(gold) as gold
    from stg_generations
    group by all
),

layered as (
    select distinct model, prompt_id
    from stg_layer_transitions
)

select
    prompts.model, prompts.prompt_id, prompts.kind, texts.prompt_text, texts.gold, prompts.steps, prompts.variants,
    prompts.variants_flipped, prompts.variants_collapsed, prompts.first_flip_step_min, prompts.first_flip_step_median,
    prompts.kl_step0_median_nats, prompts.variants_graded, prompts.variants_correct, prompts.is_correct_dense,
    prompts.place_in_order,
    layered.prompt_id is not null as has_layers
from prompt_summary as prompts
inner join texts using (model, prompt_id)
left join layered using (model, prompt_id)
order by prompts.model, prompts.place_in_order
