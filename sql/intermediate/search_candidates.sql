-- The variants between which a search is judged: all that remove weights or bytes, of models with a mixed recipe.
-- grain: one row per model × recipe.
-- key: model, recipe
-- inputs: pruned_variants, stg_variants, stg_search_trials
-- how to read: a mixed recipe that was written by hand has no strategy and no budget. A drop also removes parameters
--   that are not weights of matrices, so that removed_share may exceed 1 a little.
-- reason: single definition of the budget at which recipes are compared, and of what counts as published.
-- columns:
--   recipe: Name of the recipe
--   removed_share: Removed parameters over the weights of all linear modules inside the layers [share] =
--     parameters_removed/weights_prunable
--   bytes_share: Saved bytes over those of the same modules in 16 bits; NULL for variants of earlier versions [share] =
--     bytes_removed/(2·weights_prunable)
--   is_published: Whether the recipe is not a mixed one
--   strategy: Strategy that chose it, searched before a control; NULL for recipes of no search [label]
--   budget: Unit of the target of that search, parameters before others; NULL likewise [label]
with found as (
    select model, recipe, strategy, budget
    from stg_search_trials
    where recipe is not null
    -- Several searches and strategies may choose the same allocation.
    qualify
        row_number() over (
            partition by model, recipe
            order by strategy <> 'searched', budget <> 'parameters', strategy, budget
        ) = 1
),

searched_models as (
    select distinct model
    from stg_variants
    where method = 'mixed'
)

select
    pruned.model, pruned.recipe, pruned.method,
    variants.parameters_removed / variants.weights_prunable as removed_share,
    variants.bytes_removed / (2 * variants.weights_prunable) as bytes_share,
    pruned.method <> 'mixed' as is_published,
    found.strategy, found.budget
from pruned_variants as pruned
semi join searched_models using (model)
inner join stg_variants as variants using (model, recipe)
left join found using (model, recipe)
where variants.parameters_removed > 0 or variants.bytes_removed > 0
