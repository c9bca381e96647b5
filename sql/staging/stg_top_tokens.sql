-- The table top_tokens as other views read it: every column by name, and columns computed from a single row.
-- grain: one row per variant × prompt × trajectory × step × side × rank.
-- key: model, recipe, prompt_id, trajectory, step, side, rank
-- inputs: top_tokens
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
-- columns:
--   variant: Name of the variant = model || '@' || recipe
select
    model,
    recipe,
    model || '@' || recipe as variant,
    prompt_id,
    trajectory,
    step,
    side,
    rank,
    token_id,
    token_text,
    logit_dense,
    logit_pruned,
    probability_dense,
    probability_pruned
from top_tokens
