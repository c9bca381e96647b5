-- how to read: rows of scope isolated carry the layer and sublayer that were swapped, and are measured at the output.
--   The cosines are for reading; small shifts must be compared in one_minus_cos_*, which keeps its digits.
-- columns:
--   cos_h: Cosine between dense and pruned h, for reading; one_minus_cos_h keeps its digits [cosine] = 1 −
--     one_minus_cos_h
--   cos_z: Cosine between dense and pruned z, for reading; one_minus_cos_z keeps its digits [cosine] = 1 −
--     one_minus_cos_z
--   cos_p: Cosine between dense and pruned p, for reading; one_minus_cos_p keeps its digits [cosine] = 1 −
--     one_minus_cos_p
select
    1 - one_minus_cos_h as cos_h,
    1 - one_minus_cos_z as cos_z,
    1 - one_minus_cos_p as cos_p
from layer_transitions
