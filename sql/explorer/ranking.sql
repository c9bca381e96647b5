-- Pruned variants in order of damage, with the differences to the nearest.
-- grain: one row per pruned variant.
-- inputs: variant_ranking
select
    model,
    recipe,
    measure,
    amount,
    amount_low,
    amount_high,
    place,
    difference,
    difference_low,
    is_nearest,
    n_variants
from variant_ranking
