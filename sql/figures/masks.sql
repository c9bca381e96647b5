-- Overlap of the masks of every two of at most 50 variants, and that of independent masks of these sizes.
-- grain: one row per model × recipe × other recipe.
-- inputs: mask_overlap
-- how to read: the overlap of each matrix is weighted by the number of weights that either mask removes.
with counts as (
    select
        model, recipe, other_recipe, weights, removed_share, other_removed_share,
        weights_of_either(weights, removed_share, other_removed_share, jaccard_removed) as either_removed,
        jaccard_removed, jaccard_removed_se,
        weights * removed_share * other_removed_share as both_expected,
        weights * (removed_share + other_removed_share - removed_share * other_removed_share) as either_expected
    from mask_overlap
),

named as (
    select distinct
        model,
        unnest([recipe, other_recipe]) as recipe
    from mask_overlap
),

selected as (
    select model, recipe
    from named
    qualify row_number() over (partition by model order by recipe) <= 50
),

pairs as (
    select
        counts.model, counts.recipe, counts.other_recipe,
        count(*) as matrices,
        sum(coalesce(counts.jaccard_removed, 0) * counts.either_removed)
        / sum(counts.either_removed) as jaccard_removed,
        error_of_weighted_mean(counts.jaccard_removed_se, counts.either_removed) as se,
        sum(counts.both_expected) / sum(counts.either_expected) as jaccard_removed_expected
    from counts
    semi join selected using (model, recipe)
    semi join selected as other_selected
        on counts.model = other_selected.model and counts.other_recipe = other_selected.recipe
    group by all
    having sum(counts.weights * counts.removed_share) > 0 and sum(counts.weights * counts.other_removed_share) > 0
)

select
    model, recipe, other_recipe, matrices, jaccard_removed,
    wilson_interval_of_error(jaccard_removed, se, null)[1] as jaccard_low,
    wilson_interval_of_error(jaccard_removed, se, null)[2] as jaccard_high,
    jaccard_removed_expected
from pairs
order by model, recipe, other_recipe
