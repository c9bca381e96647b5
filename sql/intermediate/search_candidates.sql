-- The variants that the judgement of a search compares: all that remove weights or bytes, of models with a mixed
-- recipe.
-- grain: one row per model × recipe.
-- key: model, recipe
-- inputs: pruned_variants, stg_variants, stg_search_trials
-- how to read: a mixed recipe that was written by hand has no strategy and no budget. A drop also removes parameters
--   that are not weights of matrices, so removed_share may slightly exceed 1.
-- reason: single definition of the budget at which recipes are compared, and of what counts as published.
-- columns:
--   recipe: Name of the recipe
--   removed_share: Removed parameters over the weights of all linear modules inside the layers [share] =
--     parameters_removed/weights_prunable
--   bytes_share: Saved bytes over those of the same modules in 16 bits; NULL for variants of earlier versions [share] =
--     bytes_removed/(2·weights_prunable)
--   is_published: Whether the recipe is not a mixed one
--   strategy: Strategy that chose it, searched rather than a control; NULL if no search chose it [label]
--   budget: Unit of the target of that search, preferably parameters; NULL if no search chose it [label]
with chosen as (
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
    chosen.strategy, chosen.budget
from pruned_variants as pruned
semi join searched_models using (model)
inner join stg_variants as variants using (model, recipe)
left join chosen using (model, recipe)
where variants.parameters_removed > 0 or variants.bytes_removed > 0
