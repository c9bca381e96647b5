-- Pruned variants that remove about as many parameters, in order of the tokens that they change.
-- grain: one row per pruned variant.
-- inputs: variant_ranking
select
    model, recipe, band, band_removed_share, amount, amount_low, amount_high, place, difference, difference_low,
    is_nearest, n_variants
from variant_ranking
