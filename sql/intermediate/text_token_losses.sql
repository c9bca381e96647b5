-- The scored tokens of texts as numbers to average: losses in float64, their difference, whether the top token agrees.
-- grain: one row per variant × text × scored token, noise included.
-- key: model, recipe, text_id, position
-- inputs: stg_text_tokens
-- how to read: T = 1. Noise and the dense recipe are included.
-- reason: text_statistics averages these numbers over tokens and text_window_errors over windows.
-- columns:
--   nll_dense: Loss of the dense model on the token [nats] = −ln p(target)
--   nll_pruned: Loss of the variant on the token [nats] = −ln q(target)
--   ln_ratio: How much more the variant loses [nats] = ln(p(target)/q(target))
--   kl: KL(dense‖pruned) at the token in float64 [nats]
--   is_top1_same: 1 if both sides have the same most likely token, else 0
select
    model, recipe, text_id, position, text_hash, context, stride, window_id,
    -cast(log_p_target_dense as double) as nll_dense,
    -cast(log_p_target_pruned as double) as nll_pruned,
    cast(log_p_target_dense as double) - log_p_target_pruned as ln_ratio,
    delta_p_target,
    cast(kl_dense_pruned_nats as double) as kl,
    cast(is_top1_same as integer) as is_top1_same
from stg_text_tokens
