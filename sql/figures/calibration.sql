-- Pairs of variants whose recipes differ in calibration tokens or seed: difference of KL, and overlap of the masks.
-- grain: one row per model × recipe × other recipe.
-- inputs: mask_overlap, q28_sensitivity_to_calibration
-- how to read: the interval of the overlap comes from sampling the masks; the error of each matrix is weighted by the
--   number of weights that either mask removes.
with sampled as (
    select
        model, recipe, other_recipe,
        error_of_weighted_mean(
            jaccard_removed_se, weights_of_either(weights, removed_share, other_removed_share, jaccard_removed)
        ) as se
    from mask_overlap
    group by all
)

select
    pairs.model, pairs.recipe, pairs.other_recipe, pairs.differs_in, pairs.n_prompts, pairs.kl_nats,
    pairs.other_kl_nats, pairs.kl_difference_nats, pairs.kl_difference_low_nats, pairs.kl_difference_high_nats,
    pairs.jaccard_removed, pairs.expected_jaccard_removed,
    wilson_interval_of_error(pairs.jaccard_removed, sampled.se, null)[1] as jaccard_low,
    wilson_interval_of_error(pairs.jaccard_removed, sampled.se, null)[2] as jaccard_high
from q28_sensitivity_to_calibration as pairs
left join sampled using (model, recipe, other_recipe)
where
    pairs.kl_difference_nats is not null
    or pairs.jaccard_removed is not null
order by pairs.model, pairs.method, pairs.recipe, pairs.other_recipe
