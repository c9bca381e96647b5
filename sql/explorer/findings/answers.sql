-- Variants that answer as many prompts correctly as the dense model.
-- grain: one row per model.
-- inputs: variant_summary
select
    dense.model,
    dense.prompts_graded as graded,
    dense.prompts_correct as correct_dense,
    list(pruned.recipe order by pruned.recipe) filter (where pruned.prompts_correct >= dense.prompts_correct)
        as recipes_as_good
from variant_summary as dense
-- A variant that is pruned but not measured yet has answered no prompt.
inner join variant_summary as pruned using (model)
where dense.recipe = 'dense' and dense.prompts_graded > 0 and pruned.recipe <> 'dense' and pruned.prompts > 0
group by all
order by dense.model
