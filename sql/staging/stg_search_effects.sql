-- columns:
--   place: Name of the sublayer in allocations, such as attn.3 = sublayer || '.' || layer
select sublayer || '.' || layer as place
from search_effects
