-- Most likely tokens of both sides at every step.
-- grain: one row per pruned variant × prompt × trajectory × step × side × rank, down to rank 10.
-- inputs: stg_top_tokens
select
    model,
    recipe,
    prompt_id,
    trajectory,
    step,
    side,
    rank,
    token_text,
    probability_dense,
    probability_pruned
from stg_top_tokens
where recipe <> 'dense' and rank <= 10
order by model, recipe, prompt_id, trajectory, step, side, rank
