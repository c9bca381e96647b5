-- how to read: up to the flip both models have read the same tokens. is_flip says that they draw different ones here.
-- columns:
--   is_flip: Whether the two models draw different tokens = token_id_dense <> token_id_pruned
select token_id_dense <> token_id_pruned as is_flip
from sampled_steps
