-- The table sampled_steps as other views read it: every column by name, and columns computed from a single row.
-- grain: one row per variant × prompt × sample × trajectory × step.
-- key: model, recipe, prompt_id, sample, trajectory, step
-- inputs: sampled_steps
-- how to read: up to the flip both trajectories have the same rows, and flip_probability is known. is_flip says that
--   the models draw different tokens here; NULL behind the flip.
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
-- columns:
--   variant: Name of the variant = model || '@' || recipe
--   is_flip: Whether the two models draw different tokens = token_id_dense <> token_id_pruned
select
    model,
    recipe,
    model || '@' || recipe as variant,
    prompt_id,
    sample,
    trajectory,
    step,
    temperature,
    token_id_dense,
    token_id_pruned,
    total_variation,
    flip_probability,
    kl_dense_pruned_nats,
    kl_pruned_dense_nats,
    entropy_dense_nats,
    entropy_pruned_nats,
    token_id_dense <> token_id_pruned as is_flip
from sampled_steps
