-- how to read: up to the flip both trajectories have the same rows, and flip_probability is known. is_flip says that
--   the models draw different tokens here; NULL after the flip.
-- columns:
--   is_flip: Whether the two models draw different tokens = token_id_dense <> token_id_pruned
select token_id_dense <> token_id_pruned as is_flip
from sampled_steps
