-- Lens of the layers.
-- grain: one row per model with layers.
-- inputs: reference_lens
select model, lens
from reference_lens
order by model
