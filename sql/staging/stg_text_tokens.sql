-- The table text_tokens as other views read it: every column by name, and columns computed from a single row.
-- grain: one row per variant × text × scored token.
-- key: model, recipe, text_id, position
-- inputs: text_tokens
-- how to read: delta_p_target = p_target_pruned − p_target_dense, above 0 where the variant gives the text's own token
--   more; delta_log_p_target is the same in nats.
-- reason: single place that names the stored columns, so that a renamed column breaks only this view.
-- columns:
--   variant: Name of the variant = model || '@' || recipe
--   delta_log_p_target: Change of the target's log-probability; above 0 the variant gives it more [nats] = ln q(target)
--     − ln p(target)
--   delta_p_target: Change of the target's probability; above 0 the variant gives it more [probability] = q(target) −
--     p(target)
select
    model,
    recipe,
    model || '@' || recipe as variant,
    text_id,
    text_hash,
    context,
    stride,
    window_id,
    position,
    token_id,
    log_p_target_dense,
    log_p_target_pruned,
    one_minus_cos_h,
    one_minus_cos_z,
    one_minus_cos_p,
    var_p_dz,
    t3_kl_nats,
    kl_dense_pruned_nats,
    kl_pruned_dense_nats,
    js_nats,
    total_variation,
    is_top1_same,
    rank_of_dense_top1,
    p_dense_top1_dense,
    p_dense_top1_pruned,
    entropy_dense_nats,
    entropy_pruned_nats,
    margin_dense,
    margin_pruned,
    cast(log_p_target_pruned as double) - log_p_target_dense as delta_log_p_target,
    exp(cast(log_p_target_pruned as double)) - exp(cast(log_p_target_dense as double)) as delta_p_target
from text_tokens
