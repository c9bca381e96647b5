-- Tokens that either side ranks among its six most likely at the first step that differs, of four prompts.
-- grain: one row per model × prompt × recipe × token.
-- inputs: stg_top_tokens, stg_generations, noise_variants, prompt_summary
-- how to read: the step is that of the first flip, or 0 without one. The prompts are those of each kind that break
--   first, then those that break second.
select
    tokens.model, tokens.recipe, tokens.prompt_id, tokens.step, generations.first_flip_step, tokens.token_id,
    left(any_value(tokens.token_text), 60) as token_text,
    any_value(tokens.probability_dense) as probability_dense,
    any_value(tokens.probability_pruned) as probability_pruned,
    min(tokens.rank) filter (where tokens.side = 'dense') as rank_dense,
    min(tokens.rank) filter (where tokens.side = 'pruned') as rank_pruned
from stg_top_tokens as tokens
inner join stg_generations as generations using (model, recipe, prompt_id)
left join prompt_summary as prompts using (model, prompt_id)
anti join noise_variants using (model, recipe)
where
    tokens.recipe <> 'dense' and tokens.trajectory = 'teacher_forced' and tokens.rank <= 6
    and tokens.step = coalesce(generations.first_flip_step, 0)
group by
    tokens.model, tokens.recipe, tokens.prompt_id, tokens.step, generations.first_flip_step, tokens.token_id,
    prompts.place_in_kind, prompts.place_in_order
qualify
    dense_rank() over (
        partition by tokens.model
        order by prompts.place_in_kind nulls last, prompts.place_in_order, tokens.prompt_id
    ) <= 4
order by
    tokens.model asc, tokens.prompt_id asc, tokens.recipe asc, probability_dense desc, probability_pruned desc,
    tokens.token_id asc
