-- Prompts, and the length of the dense model's text up to its end.
-- grain: one row per model × prompt.
-- inputs: stg_generations
select
    model,
    prompt_id,
    any_value(kind) as kind,
    any_value(prompt_text) as prompt_text,
    any_value(gold) as gold,
    max(coalesce(end_step + 1, len(token_ids))) filter (where recipe = 'dense') as steps
from stg_generations
group by model, prompt_id
order by model, prompt_id
