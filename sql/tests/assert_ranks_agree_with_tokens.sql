-- At each step the ranks of the two top tokens agree with the tokens: rank 1 on the other side means the same token.
-- grain: one row per decoding step that contradicts itself.
-- inputs: stg_decoding_steps
-- reason: with greedy decoding the emitted tokens are the top tokens of the row's distributions.
select
    model,
    recipe,
    prompt_id,
    trajectory,
    step,
    temperature
from stg_decoding_steps
where
    -- Tokens come from decoding, ranks from dense logits plus shift: float32 may turn a tie between the two.
    (is_same_token <> is_top1_same and least(margin_dense, margin_pruned) > 1e-3)
    or is_top1_same <> (rank_of_dense_top1 = 1)
    or is_top1_same <> (rank_of_pruned_top1 = 1)
