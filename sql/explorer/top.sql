-- Most likely tokens of both sides at every step of the dense text and of the variant's own.
-- grain: one row per pruned variant × prompt × trajectory × step × side × rank, down to rank 10.
-- inputs: stg_top_tokens, dense_ends
select
    tokens.model,
    tokens.recipe,
    tokens.prompt_id,
    tokens.trajectory,
    tokens.step,
    tokens.side,
    tokens.rank,
    tokens.token_text,
    tokens.probability_dense,
    tokens.probability_pruned
from stg_top_tokens as tokens
anti join dense_ends
    on
        tokens.model = dense_ends.model
        and tokens.prompt_id = dense_ends.prompt_id
        and tokens.step > dense_ends.end_step
        and tokens.trajectory = 'teacher_forced'
where tokens.recipe <> 'dense' and tokens.rank <= 10 and tokens.trajectory in ('teacher_forced', 'own_text')
order by tokens.model, tokens.recipe, tokens.prompt_id, tokens.trajectory, tokens.step, tokens.side, tokens.rank
