-- The overlap of the weights that two recipes remove, for each matrix.
-- grain: one row per model × recipe × other recipe × layer × sublayer × module, each pair once.
-- key: model, recipe, other_recipe, layer, sublayer, module
-- inputs: stg_mask_samples, noise_variants
-- how to read: recipe comes before other_recipe in the alphabet. jaccard_removed is the number of weights that both
--   remove over the number that at least one removes: 1 for the same mask, jaccard_removed_expected for independent
--   masks, 0 for disjoint ones. jaccard_kept is the same for the weights that stay. Counted at up to 16,384 positions
--   of a matrix, the same for all variants of a model; *_se is an upper bound of the standard error, 0 if every weight
--   was counted. NULL if neither removes (or keeps) anything. A dropped sublayer is removed whole, quantization removes
--   nothing. The dense recipe and noise variants are excluded.
-- reason: two recipes of equal sparsity, or one recipe on two calibration sets, may remove different weights.
-- columns:
--   recipe: Name of the recipe that comes first in the alphabet
--   other_recipe: Name of the recipe that it is compared with
--   removed_share: Share of the weights that recipe removes [share]
--   other_removed_share: Share of the weights that other_recipe removes [share]
--   jaccard_removed: Overlap of the removed weights; NULL if there are none [share] = |A ∩ B|/|A ∪ B|
--   jaccard_removed_se: Upper bound of its standard error [share] = √(j(1 − j)/|A ∪ B| · (1 − sampled/weights))
--   jaccard_removed_expected: Overlap of independent masks [share] = ab/(a + b − ab)
--   jaccard_kept: Overlap of the kept weights; NULL if there are none [share] = |A ∩ B|/|A ∪ B|
--   jaccard_kept_se: Upper bound of its standard error [share] = √(j(1 − j)/|A ∪ B| · (1 − sampled/weights))
--   jaccard_kept_expected: Overlap of independent masks [share] = ab/(a + b − ab)
with masks as (
    select
        samples.*,
        bit_count(samples.kept) as kept_count
    from stg_mask_samples as samples
    anti join noise_variants using (model, recipe)
    where samples.recipe <> 'dense'
),

pairs as (
    select
        one.*,
        other.recipe as other_recipe,
        one.kept_count / one.sampled as kept_share,
        other.kept_count / other.sampled as other_kept_share,
        bit_count(one.kept & other.kept) as both_kept,
        bit_count(one.kept | other.kept) as any_kept
    from masks as one
    -- The same positions: a file of another revision of the model may have other shapes.
    inner join masks as other using (model, module, layer, sublayer, weights, sampled)
    where one.recipe < other.recipe
),

shares as (
    select
        *,
        1 - kept_share as removed_share,
        1 - other_kept_share as other_removed_share,
        both_kept / nullif(any_kept, 0) as jaccard_kept,
        (sampled - any_kept) / nullif(sampled - both_kept, 0) as jaccard_removed,
        1 - sampled / weights as unseen_share
    from pairs
)

select
    model, recipe, other_recipe, layer, sublayer, module, weights, sampled, removed_share, other_removed_share,
    jaccard_removed,
    sqrt(jaccard_removed * (1 - jaccard_removed) * unseen_share / nullif(sampled - both_kept, 0))
        as jaccard_removed_se,
    removed_share * other_removed_share
    / nullif(removed_share + other_removed_share - removed_share * other_removed_share, 0) as jaccard_removed_expected,
    jaccard_kept,
    sqrt(jaccard_kept * (1 - jaccard_kept) * unseen_share / nullif(any_kept, 0)) as jaccard_kept_se,
    kept_share * other_kept_share
    / nullif(kept_share + other_kept_share - kept_share * other_kept_share, 0) as jaccard_kept_expected
from shares
