-- how to read: kept is kept_bits as a bit string: bit_count(a.kept & b.kept) counts the places that both keep.
-- columns:
--   kept: kept_bits as a bit string [bits] = cast(kept_bits as bit)
select cast(kept_bits as bit) as kept
from mask_samples
