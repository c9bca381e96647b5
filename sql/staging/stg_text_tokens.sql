-- how to read: delta_p_target = p_target_pruned − p_target_dense, above 0 if the variant makes the text's own token
--   more likely; delta_log_p_target is the same in nats.
-- columns:
--   delta_log_p_target: Change of the target's log-probability; above 0 the variant makes it more likely [nats] = ln
--     q(target) − ln p(target)
--   delta_p_target: Change of the target's probability; above 0 the variant makes it more likely [probability] =
--     q(target) − p(target)
select
    cast(log_p_target_pruned as double) - log_p_target_dense as delta_log_p_target,
    exp(cast(log_p_target_pruned as double)) - exp(cast(log_p_target_dense as double)) as delta_p_target
from text_tokens
