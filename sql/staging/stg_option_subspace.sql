-- The table option_subspace as other views read it: every column by name, and columns computed from a single row.
-- grain: one row per variant × question × temperature.
-- key: model, recipe, prompt_id, temperature
-- inputs: option_subspace
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
-- columns:
--   variant: Name of the variant = model || '@' || recipe
select
    model,
    recipe,
    model || '@' || recipe as variant,
    prompt_id,
    temperature,
    options,
    option_token_ids,
    gold,
    argmax_dense,
    argmax_pruned,
    is_argmax_same,
    kendall_tau,
    logits_dense,
    logits_pruned,
    p_full_dense,
    p_full_pruned,
    p_options_dense,
    p_options_pruned,
    rank_dense,
    rank_pruned,
    mass_dense,
    mass_pruned,
    one_minus_cos_z_options,
    one_minus_cos_p_options,
    kl_options_dense_pruned_nats,
    one_minus_cos_h,
    one_minus_cos_z,
    one_minus_cos_p,
    kl_dense_pruned_nats
from option_subspace
