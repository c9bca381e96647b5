-- Median factors from h to z and from z to p after each changed sublayer, in the dense context.
-- grain: one row per model × lens × recipe × sublayer × layer.
-- inputs: q07_amplification, reference_temperature
select
    factors.model, factors.recipe, factors.layer, factors.sublayer, factors.lens, factors.temperature,
    factors.n as positions,
    factors.h_to_z_median, factors.z_to_p_median
from q07_amplification as factors
semi join reference_temperature using (model, recipe, temperature)
where factors.scope = 'local'
order by factors.model asc, factors.lens desc, factors.recipe asc, factors.sublayer asc, factors.layer asc
