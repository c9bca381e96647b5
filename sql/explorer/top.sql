-- Most likely tokens of both sides at every step of the dense text and of the variant's own.
-- grain: one row per pruned variant × prompt × trajectory × step × side × rank, down to rank 10.
-- inputs: stg_top_tokens, dense_ends
select
    tokens.model, tokens.recipe, tokens.prompt_id, tokens.trajectory, tokens.step, tokens.side, tokens.rank,
    tokens.token_text, tokens.probability_dense, tokens.probability_pruned
from stg_top_tokens as tokens
left join dense_ends using (model, prompt_id)
where
    tokens.recipe <> 'dense' and tokens.rank <= 10
    and (
        tokens.trajectory = 'own_text'
        or (tokens.trajectory = 'teacher_forced' and tokens.step <= coalesce(dense_ends.end_step, tokens.step))
    )
order by tokens.model, tokens.recipe, tokens.prompt_id, tokens.trajectory, tokens.step, tokens.side, tokens.rank
