-- how to read: is_same_token compares the emitted tokens; is_top1_same compares the distributions of the row.
-- columns:
--   is_same_token: Whether both models emit the same token = token_id_dense = token_id_pruned
select token_id_dense = token_id_pruned as is_same_token
from decoding_steps
