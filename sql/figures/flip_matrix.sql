-- Right answers that one variant has and another lacks, for at most 50 variants and the dense model.
-- grain: one row per model × metric × recipe × other recipe.
-- inputs: pairwise_flips
-- how to read: the variants with the most right answers are chosen; the tests are over all variants.
with selected as (
    select model, metric, recipe
    from pairwise_flips
    group by model, metric, recipe
    qualify
        recipe = 'dense'
        or row_number() over (partition by model, metric order by avg(n_right / n_samples) desc, recipe) <= 50
)

select
    pairwise_flips.model, pairwise_flips.metric, pairwise_flips.recipe, pairwise_flips.other_recipe,
    pairwise_flips.n_tasks, pairwise_flips.n_samples,
    pairwise_flips.n_right / pairwise_flips.n_samples as right_share,
    pairwise_flips.other_n_right / pairwise_flips.n_samples as other_right_share,
    pairwise_flips.lost, pairwise_flips.gained, pairwise_flips.lost_share, pairwise_flips.holm_p, pairwise_flips.n_tests
from pairwise_flips
semi join selected using (model, metric, recipe)
semi join selected as other_selected
    on
        pairwise_flips.model = other_selected.model and pairwise_flips.metric = other_selected.metric
        and pairwise_flips.other_recipe = other_selected.recipe
order by pairwise_flips.model, pairwise_flips.metric, pairwise_flips.recipe, pairwise_flips.other_recipe
